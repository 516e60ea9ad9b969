"""Texts that a tokenizer turns into control tokens: no text of the data may come to mean one."""

from __future__ import annotations

import re
from typing import final

from transformers import PreTrainedTokenizerBase


@final
class ControlTokens:
    """Finds where texts spell control tokens of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, terminator: int) -> None:
        """`terminator`: a token that counts as one whatever its flags."""
        added = tokenizer.added_tokens_decoder.values()
        # `all_special_tokens` has only those with a role of their own.
        flagged = {token.content for token in added if token.special}
        special = {*flagged, *tokenizer.all_special_tokens, str(tokenizer.convert_ids_to_tokens(terminator))}
        # Fast tokenizers take such a token out of a text before anything else, and with some flags the white space before it.
        apart = {token.content for token in added if token.special and not (token.lstrip or token.single_word or token.normalized)}
        self._special = _any_of(special)
        self._apart = _any_of(apart if tokenizer.is_fast else set())
        self._longest = max(map(len, special), default=0)

    def count(self, text: str) -> int:
        """How many a text spells."""
        return sum(1 for _ in self._special.finditer(text))

    def is_spelt(self, text: str) -> bool:
        """Whether a text spells one."""
        return self._special.search(text) is not None

    def joins(self, before: str, after: str) -> bool:
        """Whether one is spelt across the place where two texts meet, neither of which needs to have one."""
        end, start = before[-self._longest :], after[: self._longest]
        return self.count(end + start) > self.count(end) + self.count(start)

    def last_cut(self, text: str) -> int:
        """Where the last one begins before which the text can be cut and its parts tokenised apart; 0 where there is none."""
        return max((match.start() for match in self._apart.finditer(text)), default=0)


def _any_of(texts: set[str]) -> re.Pattern[str]:
    """Any of some texts, of two at one place the longer one; no text at all where there are none."""
    return re.compile("|".join(map(re.escape, sorted(filter(None, texts), key=len, reverse=True))) or "(?!)")
