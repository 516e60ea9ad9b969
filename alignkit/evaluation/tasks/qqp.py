"""QQP: do two questions ask the same?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.data.rows import text
from alignkit.evaluation.tasks.multiple_choice import continued, numbered
from alignkit.evaluation.tasks.task import HubPlace, Task


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class QQP(Task):
    """`glue`, `qqp`, or Quora's own files; 1 says that both ask the same.

        {"question1": "How old is it?", "question2": "What is its age?", "label": 1}
        {"question1": "How old is it?", "question2": "What is its age?", "is_duplicate": "1"}

    Measured by accuracy and F1. Iyer et al. 2017; prompt of lm-evaluation-harness.
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (HubPlace(hub="nyu-mll/glue", subset="qqp"),)
    FOLDERS: ClassVar[tuple[str, ...]] = ("glue_qqp", "qqp")
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("question1", "question2", "label"), ("question1", "question2", "is_duplicate"))
    MEASURES: ClassVar[tuple[str, ...]] = ("accuracy", "f1")

    def to_example(self, row: Mapping[str, object]) -> Question:
        """One of two answers, no or yes."""
        prompt = (
            f"Question 1: {text(row, 'question1')}\nQuestion 2: {text(row, 'question2')}\n"
            "Question: Do both questions ask the same thing?\nAnswer:"
        )
        label = "is_duplicate" if "is_duplicate" in row else "label"
        return continued(prompt, ("no", "yes"), numbered(row, label, ("not_duplicate", "duplicate")))
