"""`scorer=lexicon`: how many words of a completion are in a list of words to be avoided."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from alignkit.errors import UserError
from alignkit.scorers.scorer import TextScorer

TOKEN = re.compile(r"\w+(?:'\w+)*|[^\w\s]")
"""A word, with the apostrophes in it, or a single mark."""

Phrases = Mapping[str, Sequence[tuple[str, ...]]]
"""Phrases as their tokens, by the first one, the longest first."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Lexicon(TextScorer):
    """Minus the share of the completion's words that are in a list, [-1, 0]: 0 is a text without any. The prompt does not count.

    Words are compared whole and without regard to case: `ass` is not in `class`. The words of a phrase count where it stands in the text
    as it stands in the list; of phrases that overlap the first one counts, and of those that begin together the longest. With a list of
    toxic words this is toxicity by lexicon, negated, because scores are higher where a text is better.
    """

    path: str
    """A UTF-8 text file with one word or phrase a line; alignkit brings none."""

    def __post_init__(self) -> None:
        read_phrases(self.path)

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        phrases = read_phrases(self.path)
        return [-listed_share(completion, phrases) for completion in completions]


def listed_share(text: str, phrases: Phrases) -> float:
    """The share of a text's words that belong to a word or phrase of the list, [0, 1]; 0 for a text without words. A mark that is in the
    list, such as an emoji, is a word."""
    found = tokens(text)
    words, listed, place = sum(map(is_word, found)), 0, 0
    while place < len(found):
        here = next((phrase for phrase in phrases.get(found[place], ()) if tuple(found[place : place + len(phrase)]) == phrase), ())
        own = sum(map(is_word, here))
        if here and own == 0:
            own, words = 1, words + 1
        listed += own
        place += max(1, len(here))
    return listed / words if words else 0.0


def tokens(text: str) -> list[str]:
    """Words and marks, without regard to case and to the kind of apostrophe."""
    return TOKEN.findall(text.casefold().replace("’", "'"))


def is_word(token: str) -> bool:
    """Whether a token is no mark."""
    return token[0].isalnum() or token[0] == "_"


def read_phrases(path: str) -> Phrases:
    """The words and phrases of a file.

    Raises:
        UserError: when it cannot be read, or has none.
    """
    where = f"scorer.path = {path!r}"
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UserError(f"{where}: cannot be read ({reason}). Type scorer.path=FILE, a text file with one word a line.") from None
    except UnicodeDecodeError:
        raise UserError(f"{where}: is not UTF-8 text. It must hold one word or phrase a line.") from None
    phrases: dict[str, list[tuple[str, ...]]] = {}
    for phrase in sorted({tuple(tokens(line)) for line in lines} - {()}, key=lambda one: (-len(one), one)):
        phrases.setdefault(phrase[0], []).append(phrase)
    if not phrases:
        raise UserError(f"{where}: holds no words. It must hold one word or phrase a line.")
    return phrases
