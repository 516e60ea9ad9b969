"""Auto-J's Eval-P: labels from 0, ties, and its real rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from alignkit.data.question_rows import read_questions
from alignkit.data.rows import DroppedRow, RowError
from alignkit.evaluation.tasks.autoj import AutoJ

TASK = AutoJ()
ROW = {"scenario": "writing_poem", "label": 0, "prompt": "A poem!", "response 1": "Roses", "response 2": "No."}


@pytest.mark.parametrize(("label", "candidates"), [(0, ("Roses", "No.")), (1, ("No.", "Roses"))])
def test_labels_count_from_0(label: int, candidates: tuple[str, str]) -> None:
    question = TASK.to_example({**ROW, "label": label})
    assert (question.candidates, question.correct, question.group) == (candidates, (0,), "writing_poem")


def test_ties_are_dropped_and_other_labels_refused() -> None:
    with pytest.raises(DroppedRow, match="tie"):
        TASK.to_example({**ROW, "label": 2})
    with pytest.raises(RowError, match="'label' is 3"):
        TASK.to_example({**ROW, "label": 3})


@pytest.mark.real
def test_real_rows(shared: Path) -> None:
    read = read_questions(TASK, "autoj", str(shared / "data"), train=False, where="evaluation.path")
    # 373 ties; of the rest one pair is equal and one has an empty side.
    assert read.counts == {"rows": 1392, "tie": 373, "identical": 1, "empty": 1}
    assert len(read.questions) == 499 + 520 - 2
    scenarios = Counter(question.group for question in read.questions)
    assert len(scenarios) == 58
    assert max(scenarios.values()) <= 24
