"""PIQA: which of two ways reaches a goal?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.data.rows import text
from alignkit.evaluation.tasks.multiple_choice import FOUNDRY, continued, from_foundry, numbered
from alignkit.evaluation.tasks.task import HubPlace, Task


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PIQA(Task):
    """`baber/piqa`, the authors' rows with their labels, or llm-foundry's.

        {"goal": "dresser", "sol1": "replace drawer with bobby pin", "sol2": "finish, woodgrain with  bobby pin", "label": 1}
        {"query": "Question: dresser\\n", "choices": ["replace drawer with bobby pin", "finish, woodgrain with  bobby pin"], "gold": 1}

    Bisk et al. 2019 (arXiv:1911.11641); prompt of lm-evaluation-harness.
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (HubPlace(hub="baber/piqa"),)
    FOLDERS: ClassVar[tuple[str, ...]] = ("piqa",)
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("goal", "sol1", "sol2", "label"), FOUNDRY)

    def to_example(self, row: Mapping[str, object]) -> Question:
        """One of two solutions."""
        if "query" in row:
            goal, solutions, correct = from_foundry(row, before="Question: ")
        else:
            goal, solutions = text(row, "goal"), (text(row, "sol1"), text(row, "sol2"))
            correct = numbered(row, "label", ("sol1", "sol2"))
        return continued(f"Question: {goal}\nAnswer:", solutions, correct)
