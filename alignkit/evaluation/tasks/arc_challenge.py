"""ARC-Challenge: science questions of school exams that retrieval and word statistics get wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.questions import Question
from alignkit.evaluation.tasks.multiple_choice import CSV4, FOUNDRY, continued, from_ai2, from_csv4, from_foundry, listed, without_repeats
from alignkit.evaluation.tasks.task import HubPlace, Task

ARC_COLUMNS = (("question", "choices", "answerKey"), ("question", "answerKey"), FOUNDRY, CSV4)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ARCChallenge(Task):
    """`allenai/ai2_arc`, `ARC-Challenge`; AI2's own files; llm-foundry's rows; or one column an option. Three to five options.

        {"question": "What is hot?", "choices": {"text": ["ice", "fire"], "label": ["1", "2"]}, "answerKey": "2"}
        {"question": {"stem": "What is hot?", "choices": [{"text": "ice", "label": "A"}, ...]}, "answerKey": "B"}
        {"query": "Question: What is hot?", "choices": ["ice", "fire"], "gold": 1}
        {"question": "What is hot?", "A": "ice", "B": "fire", "C": "snow", "D": "", "answer": "B"}

    Clark et al. 2018 (arXiv:1803.05457); prompt of lm-evaluation-harness.
    """

    PLACES: ClassVar[tuple[HubPlace, ...]] = (HubPlace(hub="allenai/ai2_arc", subset="ARC-Challenge", evaluation="test"),)
    FOLDERS: ClassVar[tuple[str, ...]] = ("arc_challenge",)
    SPLITS: ClassVar[tuple[str, ...]] = ("test", "validation", "dev")
    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = ARC_COLUMNS
    LISTS: ClassVar[bool | None] = False

    def to_example(self, row: Mapping[str, object]) -> Question:
        """One of the options."""
        return exam_question(row, lists=self.lists)


def exam_question(row: Mapping[str, object], *, lists: bool) -> Question:
    """The question of a row of either part of ARC.

    Raises:
        RowError: when it is in none of the forms above.
        DroppedRow: when it has no label.
    """
    if "query" in row:
        question, options, correct = without_repeats(from_foundry(row, before="Question: "))
    elif "A" in row:
        question, options, correct = without_repeats(from_csv4(row))
    else:
        question, options, correct = from_ai2(row, stem="question")
    asked = f"Question: {question}"
    return listed(asked, options, correct) if lists else continued(f"{asked}\nAnswer:", options, correct)
