"""Stack Exchange: answers to a question, preferred by votes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import combinations
from typing import ClassVar, final

from alignkit.data.examples import Message, PreferenceExample
from alignkit.data.rows import RowError, number, text
from alignkit.data.source import RowSource

_BLOCK = re.compile("address|blockquote|dd|div|dl|dt|h[1-6r]|li|ol|p|pre|table|tr|ul")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class StackExchange(RowSource):
    """Rows that are paired already, or raw questions with all of their answers.

    - `lvwerra/stack-exchange-paired`: `question`, `response_j` (preferred), `response_k`; Markdown, taken as it is.
    - `HuggingFaceH4/stack-exchange-preferences`: `question`, `answers` = [{text, pm_score}, ...]; HTML, of which the text is kept.
      Every two answers make a pair, the one with the higher `pm_score` is chosen, and the margin is their difference.

    The DPO repository takes the later answer on a tie; a tie is no preference, so ties are left out here, our deviation. It also loses
    the text of links and emphasis when it strips HTML; here it stays. Askell et al. 2021 (arXiv:2112.00861) define `pm_score`.
    """

    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("question", "response_j", "response_k"), ("question", "answers"))

    def to_examples(self, row: Mapping[str, object]) -> list[PreferenceExample]:
        """One pair, or those of every two answers whose votes differ."""
        question = text(row, "question")
        if "answers" not in row:
            prompt = (Message(role="user", content=question),)
            return [PreferenceExample(prompt=prompt, completions=(text(row, "response_j"), text(row, "response_k")))]
        prompt = (Message(role="user", content=_plain(question)),)
        return [
            PreferenceExample(prompt=prompt, completions=(better[1], worse[1]), margin=better[0] - worse[0])
            for one, two in combinations(_answers(row), 2)
            if one[0] != two[0]
            for better, worse in [(one, two) if one[0] > two[0] else (two, one)]
        ]


def _answers(row: Mapping[str, object]) -> list[tuple[float, str]]:
    """Scores and texts."""
    answers = row["answers"]
    if not isinstance(answers, list) or not all(isinstance(answer, Mapping) for answer in answers):
        raise RowError("'answers' must be a list of objects with text and pm_score.")
    return [(number(answer, "pm_score"), _plain(text(answer, "text"))) for answer in answers]


def _plain(html: str) -> str:
    """The text of a piece of HTML: paragraphs apart by a blank line, `pre` as it stands, other white space as browsers show it."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    return parser.text()


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._blocks: list[tuple[str, bool]] = [("", False)]
        """Text so far of each block, and whether its white space counts."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "br":
            self._add("\n")
        elif _BLOCK.fullmatch(tag):
            self._blocks.append(("- " if tag == "li" else "", tag == "pre"))

    def handle_endtag(self, tag: str) -> None:
        if _BLOCK.fullmatch(tag):
            self._blocks.append(("", False))

    def handle_data(self, data: str) -> None:
        self._add(data if self._blocks[-1][1] else re.sub(r"\s+", " ", data))

    def _add(self, data: str) -> None:
        before, verbatim = self._blocks[-1]
        self._blocks[-1] = (before + data, verbatim)

    def text(self) -> str:
        """Everything fed so far."""
        blocks = (block.strip("\n") if verbatim else _shown(block) for block, verbatim in self._blocks)
        return "\n\n".join(block for block in blocks if block.strip() not in ("", "-"))


def _shown(block: str) -> str:
    return re.sub(r" *\n *", "\n", re.sub(" +", " ", block)).strip()
