"""TruthfulQA with all true answers: how much of the probability is theirs?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.data.rows import text
from alignkit.evaluation.tasks.task import HubPlace, Task
from alignkit.evaluation.tasks.truthfulqa import ANSWER_COLUMNS, TRUTHFULQA_PLACES, separated, targets, truth_question


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TruthfulQAMC2(Task):
    """The questions and the prompt of `TruthfulQA` with every true and every false answer (MC2). Lin et al. 2021 (arXiv:2109.07958)."""

    PLACES: ClassVar[tuple[HubPlace, ...]] = TRUTHFULQA_PLACES
    FOLDERS: ClassVar[tuple[str, ...]] = ("truthfulqa",)
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("question", "mc2_targets"), ANSWER_COLUMNS)
    MEASURES: ClassVar[tuple[str, ...]] = ("mc2",)

    def to_example(self, row: Mapping[str, object]) -> Question:
        """Several right answers, which come first."""
        if "Best Answer" in row:
            return truth_question(text(row, "Question"), separated(row, "Correct Answers"), separated(row, "Incorrect Answers"))
        return truth_question(text(row, "question"), *targets(row, "mc2_targets"))
