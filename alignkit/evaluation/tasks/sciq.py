"""SciQ: science questions, each with a passage that helps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.data.rows import text
from alignkit.evaluation.tasks.multiple_choice import continued
from alignkit.evaluation.tasks.task import HubPlace, Task

_ANSWERS = ("distractor1", "distractor2", "distractor3", "correct_answer")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SciQ(Task):
    """`allenai/sciq`: a question, its answer and three wrong ones; `support` may be empty.

        {"support": "Ice is frozen water.", "question": "What is ice?", "correct_answer": "water", "distractor1": "air", ...}

    Welbl et al. 2017 (arXiv:1707.06209); prompt of lm-evaluation-harness, and its order of the candidates: the right one is the last, which
    nothing in the prompt tells, and candidates that score the same share the credit.
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (HubPlace(hub="allenai/sciq", evaluation="test"),)
    FOLDERS: ClassVar[tuple[str, ...]] = ("sciq",)
    SPLITS: ClassVar[tuple[str, ...]] = ("test", "validation", "dev")
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("question", *_ANSWERS),)

    def to_example(self, row: Mapping[str, object]) -> Question:
        """One of four answers."""
        support = text(row, "support").lstrip() if row.get("support") is not None else ""
        answers = [text(row, column) for column in _ANSWERS]
        return continued(f"{support}\nQuestion: {text(row, 'question')}\nAnswer:", answers, len(answers) - 1)
