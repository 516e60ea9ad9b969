"""MMLU: exams in 57 subjects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.data.rows import text
from alignkit.evaluation.tasks.multiple_choice import CSV4, LETTERS, continued, from_csv4, listed, numbered, texts
from alignkit.evaluation.tasks.task import HubPlace, Task


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class MMLU(Task):
    """`cais/mmlu`, `all`, or files with one column an option, as the authors' are, with column names.

        {"question": "1+1?", "choices": ["3", "2", "4", "5"], "answer": 1, "subject": "elementary_mathematics"}
        {"question": "1+1?", "A": "3", "B": "2", "C": "4", "D": "5", "answer": "B"}

    Hendrycks et al. 2020 (arXiv:2009.03300). Prompts list the options, without a line on the subject; the training rows are those of
    other benchmarks (`auxiliary_train`).
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (HubPlace(hub="cais/mmlu", subset="all", train="auxiliary_train", evaluation="test"),)
    FOLDERS: ClassVar[tuple[str, ...]] = ("mmlu",)
    SPLITS: ClassVar[tuple[str, ...]] = ("test", "validation", "dev")
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("question", "choices", "answer"), CSV4)
    LISTS: ClassVar[bool | None] = True

    def to_example(self, row: Mapping[str, object]) -> Question:
        """One of four options."""
        if "A" in row:
            question, options, correct = from_csv4(row)
        else:
            question, options = text(row, "question"), texts(row, "choices")
            correct = numbered(row, "answer", LETTERS[: len(options)])
        asked, subject = f"Question: {question.strip()}", str(row.get("subject") or "")
        if self.lists:
            return listed(asked, options, correct, group=subject)
        return continued(f"{asked}\nAnswer:", options, correct, group=subject)
