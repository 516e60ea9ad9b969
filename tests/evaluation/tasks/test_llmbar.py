"""LLMBar: labels, sets, and its real rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignkit.data.examples import Message
from alignkit.data.question_rows import read_questions
from alignkit.data.rows import RowError
from alignkit.evaluation.tasks.llmbar import LLMBar

TASK = LLMBar()
ROW = {"input": "Name a prime.", "output_1": "9, what a number!", "output_2": "7", "label": 2}
SIZES = {
    "llmbar_natural": 100,
    "llmbar_adver_neighbor": 134,
    "llmbar_adver_gptinst": 92,
    "llmbar_adver_gptout": 47,
    "llmbar_adver_manual": 46,
}


@pytest.mark.parametrize(
    ("label", "candidates"), [(1, ("9, what a number!", "7")), (2, ("7", "9, what a number!")), ("2", ("7", "9, what a number!"))]
)
def test_the_label_says_which_output_is_better(label: object, candidates: tuple[str, str]) -> None:
    question = TASK.to_example({**ROW, "label": label})
    assert question.prompt == (Message(role="user", content="Name a prime."),)
    assert (question.candidates, question.correct, question.group) == (candidates, (0,), "")


@pytest.mark.parametrize("label", [0, 3, None, True, "first"])
def test_other_labels_are_refused(label: object) -> None:
    with pytest.raises(RowError, match=r"'label' is .*; must be one of 1, 2"):
        TASK.to_example({**ROW, "label": label})


def test_the_hub_has_a_split_for_each_set() -> None:
    assert {place.group for place in TASK.PLACES} == set(SIZES)
    assert {group for groups in TASK.SECTIONS.values() for group in groups} == set(SIZES)
    assert TASK.SECTIONS["natural"] == ("llmbar_natural",)


@pytest.mark.real
def test_real_rows(shared: Path) -> None:
    read = read_questions(TASK, "llmbar", str(shared / "data"), train=False, where="evaluation.path")
    assert {name: sum(question.group == name for question in read.questions) for name in SIZES} == SIZES
    assert read.counts == {"rows": 419}
    # Adversarial sets: the worse answer looks better, and is longer more often than not.
    adversarial = [question for question in read.questions if question.group != "llmbar_natural"]
    assert sum(len(question.candidates[1]) > len(question.candidates[0]) for question in adversarial) / len(adversarial) > 0.6


@pytest.mark.real
def test_real_sets_of_others_in_its_form_are_read_one_by_one(shared: Path) -> None:
    file = str(shared / "data" / "llmbar" / "llmeval2_human.jsonl.gz")
    read = read_questions(TASK, "llmbar", file, train=False, where="evaluation.path")
    assert read.counts["rows"] == 200
    assert read.counts["identical"] + read.counts["empty"] == 200 - len(read.questions) > 0
