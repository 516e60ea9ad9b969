"""RACE: what an article of an English exam says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.data.rows import text
from alignkit.evaluation.tasks.multiple_choice import LETTERS, continued, listed, numbered, texts
from alignkit.evaluation.tasks.task import HubPlace, Task


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RACE(Task):
    """`ehovy/race`: an article, a question on it, four options and the letter of the right one. `example_id` tells middle from high school.

        {"article": "Ann won.", "question": "Who won?", "options": ["Ann", "Bob", "Cid", "Dan"], "answer": "A", "example_id": "middle1.txt"}

    The score weighs both schools by their test questions. Lai et al. 2017 (arXiv:1704.04683).
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = tuple(
        HubPlace(hub="ehovy/race", subset=school, evaluation="test", group=school) for school in ("middle", "high")
    )
    FOLDERS: ClassVar[tuple[str, ...]] = ("race",)
    SPLITS: ClassVar[tuple[str, ...]] = ("test", "validation", "dev")
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("article", "question", "options", "answer"),)
    WEIGHTS: ClassVar[Mapping[str, float]] = MappingProxyType({"middle": 1436.0, "high": 3498.0})
    LISTS: ClassVar[bool | None] = True

    def to_example(self, row: Mapping[str, object]) -> Question:
        """One of the options; the article comes first, so that all questions on it could share it."""
        options = texts(row, "options")
        correct = numbered(row, "answer", LETTERS[: len(options)])
        asked = f"Article: {text(row, 'article').strip()}\n\nQuestion: {text(row, 'question').strip()}"
        name = str(row.get("example_id") or "")
        group = next((school for school in self.WEIGHTS if name.startswith(school)), "")
        if self.lists:
            return listed(asked, options, correct, group=group)
        return continued(f"{asked}\nAnswer:", options, correct, group=group)
