"""ARC-Easy: science questions of school exams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.evaluation.tasks.arc_challenge import ARC_COLUMNS, exam_question
from alignkit.evaluation.tasks.task import HubPlace, Task


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ARCEasy(Task):
    """`allenai/ai2_arc`, `ARC-Easy`: what is not in the other part, in the same forms (`ARCChallenge`). Clark et al. 2018
    (arXiv:1803.05457).
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (HubPlace(hub="allenai/ai2_arc", subset="ARC-Easy", evaluation="test"),)
    FOLDERS: ClassVar[tuple[str, ...]] = ("arc_easy",)
    SPLITS: ClassVar[tuple[str, ...]] = ("test", "validation", "dev")
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = ARC_COLUMNS
    LISTS: ClassVar[bool | None] = False

    def to_example(self, row: Mapping[str, object]) -> Question:
        """One of the options."""
        return exam_question(row, lists=self.lists)
