"""OpenBookQA: elementary science that takes a fact and common sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.evaluation.tasks.multiple_choice import CSV4, FOUNDRY, continued, from_ai2, from_csv4, from_foundry, listed
from alignkit.evaluation.tasks.task import HubPlace, Task


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class OpenBookQA(Task):
    """`allenai/openbookqa`, `main`; AI2's own files; llm-foundry's rows; or one column an option.

        {"question_stem": "Fog is likely around", "choices": {"text": ["a marsh", "a desert"], "label": ["A", "B"]}, "answerKey": "A"}
        {"question": {"stem": "Fog is likely around", "choices": [{"text": "a marsh", "label": "A"}, ...]}, "answerKey": "A"}
        {"query": "Fog is likely around", "choices": ["a marsh", "a desert"], "gold": 0}

    The fact is not given. Mihaylov et al. 2018 (arXiv:1809.02789); prompt of lm-evaluation-harness: the question alone, as many of them
    are sentences to be completed.
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (HubPlace(hub="allenai/openbookqa", subset="main", evaluation="test"),)
    FOLDERS: ClassVar[tuple[str, ...]] = ("openbookqa", "obqa")
    SPLITS: ClassVar[tuple[str, ...]] = ("test", "validation", "dev")
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("question_stem", "choices", "answerKey"),
        ("question", "answerKey"),
        FOUNDRY,
        CSV4,
    )
    LISTS: ClassVar[bool | None] = False

    def to_example(self, row: Mapping[str, object]) -> Question:
        """One of the options."""
        form = from_foundry if "query" in row else from_csv4 if "A" in row else None
        stem, options, correct = form(row) if form else from_ai2(row, stem="question_stem")
        return listed(f"Question: {stem.strip()}", options, correct) if self.lists else continued(stem, options, correct)
