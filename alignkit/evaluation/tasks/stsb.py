"""STS-B: how similar are two sentences?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.data.rows import DroppedRow, RowError, number, text
from alignkit.evaluation.tasks.multiple_choice import NOBODY_SAYS, continued
from alignkit.evaluation.tasks.task import HubPlace, Task


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class STSB(Task):
    """`glue`, `stsb`, or GLUE's own files: a rating from 0 (nothing in common) to 5 (the same), the mean of several people's.

        {"sentence1": "A plane is taking off.", "sentence2": "An air plane is taking off.", "label": 5.0}
        {"sentence1": "A man is playing a large flute.", "sentence2": "A man is playing a flute.", "score": "3.800"}

    The candidates are the digits; right is the one that is next to the rating, of two the even one (2.5: 2, 3.5: 4), as in
    arXiv:2405.20053. Measured by Pearson's and Spearman's correlation of ratings and chosen digits. Cer et al. 2017 (arXiv:1708.00055).
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (HubPlace(hub="nyu-mll/glue", subset="stsb"),)
    FOLDERS: ClassVar[tuple[str, ...]] = ("glue_stsb", "stsb")
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("sentence1", "sentence2", "label"), ("sentence1", "sentence2", "score"))
    MEASURES: ClassVar[tuple[str, ...]] = ("pearson", "spearman")

    def to_example(self, row: Mapping[str, object]) -> Question:
        """One of six answers, 0 to 5."""
        column = "score" if "score" in row else "label"
        if column in row and str(row[column] if row[column] is not None else "").strip() in NOBODY_SAYS:
            raise DroppedRow("no_answer")
        rating = number(row, column)
        if not 0.0 <= rating <= 5.0:
            raise RowError(f"'{column}' is {row[column]!r}; must be in [0, 5].")
        prompt = (
            f"Sentence 1: {text(row, 'sentence1')}\nSentence 2: {text(row, 'sentence2')}\n"
            "Question: From 0 (nothing in common) to 5 (the same meaning), how similar are the two sentences?\nAnswer:"
        )
        return replace(continued(prompt, "012345", round(rating)), value=rating)
