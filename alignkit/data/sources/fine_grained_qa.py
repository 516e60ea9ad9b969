"""QA-Feedback: four answers to a question, compared two by two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, final

from alignkit.data.examples import Message, PreferenceExample
from alignkit.data.forms import ranks_of
from alignkit.data.rows import RowError, items, numbers, text
from alignkit.data.source import RowSource

_ANSWERS = tuple(f"prediction {place}" for place in range(1, 5))
_COMPARED = tuple(combinations(range(len(_ANSWERS)), 2))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class FineGrainedQA(RowSource):
    """The preferences of `qa_feedback`: `question`, `passages` and the answers `prediction 1` to `prediction 4`.

    `preference` is the outcome of the comparisons 1-2, 1-3, 1-4, 2-3, 2-4, 3-4: 1 for the first, 2 for the second, 0 for neither.
    Answers are ranked by comparisons won less those lost (Copeland's rule), which contradicts none of those that are given where
    they hold no circle. The passages that the answers are to rest on stand before the question. Its feedback on single spans of the
    first answer is not read. Wu et al. 2023 (arXiv:2306.01693).
    """

    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("question", *_ANSWERS, "preference"),)

    passages: bool
    """Whether the passages stand in the prompt."""

    def to_examples(self, row: Mapping[str, object]) -> list[PreferenceExample]:
        """One example with four completions, ranked."""
        won = [0] * len(_ANSWERS)
        for (first, second), outcome in zip(_COMPARED, numbers(row, "preference", len(_COMPARED)), strict=True):
            if outcome not in (0.0, 1.0, 2.0):
                raise RowError(f"'preference' holds {outcome:g}; must hold 1 (the first is better), 2 (the second is) or 0 (neither).")
            sign = (0, 1, -1)[int(outcome)]
            won[first] += sign
            won[second] -= sign
        question = text(row, "question")
        prompt = "\n\n".join([*_passages(row), question]) if self.passages else question
        return [
            PreferenceExample(
                prompt=(Message(role="user", content=prompt),),
                completions=tuple(text(row, answer) for answer in _ANSWERS),
                ranks=ranks_of(won),
            )
        ]


def _passages(row: Mapping[str, object]) -> list[str]:
    """Each passage as its title and a paragraph; a row holds lists of the title and the sentences."""
    paragraphs: list[str] = []
    if row.get("passages") == []:  # a few questions have none
        return paragraphs
    for passage in items(row, "passages"):
        if not isinstance(passage, list) or not passage or not all(isinstance(part, str) for part in passage):
            raise RowError("'passages' must be a list of lists: a title and its sentences.")
        paragraphs.append(f"{passage[0]}\n{' '.join(passage[1:])}")
    return paragraphs
