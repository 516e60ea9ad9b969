"""What is special in single benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from alignkit.data.questions import Question
from alignkit.data.rows import DroppedRow, RowError
from alignkit.evaluation.tasks.catalogue import find_task

Row = Mapping[str, Any]


def question(task: str, row: Row) -> Question:
    return find_task(task, "evaluation.tasks", listed=None).to_example(row)


def asked(prompt: str, candidates: Sequence[str], correct: int, **rest: Any) -> Question:
    return Question(prompt=prompt, candidates=tuple(candidates), correct=(correct,), **rest)


@pytest.mark.parametrize(("rating", "digit"), [(0.0, 0), (0.5, 0), (1.5, 2), (2.5, 2), (3.5, 4), (4.5, 4), (4.51, 5), (5.0, 5)])
def test_stsb_halves_go_to_the_even_digit(rating: float, digit: int) -> None:
    found = question("stsb", {"sentence1": "A", "sentence2": "B", "label": rating})
    assert (found.correct, found.value) == ((digit,), rating)


def test_race_takes_the_school_from_the_name_of_the_example() -> None:
    row = {"article": "Ann won.", "question": "Who?", "options": ["Ann", "Bob"], "answer": "B", "example_id": "high12.txt"}
    assert question("race", {**row, "example_id": "middle1.txt"}).group == "middle"
    assert question("race", {name: value for name, value in row.items() if name != "example_id"}).group == ""


def test_sciq_asks_after_a_passage_that_may_be_empty() -> None:
    row = {"question": "Ice?", "distractor1": "a", "distractor2": "b", "distractor3": "c", "correct_answer": "d", "support": " Cold. "}
    assert question("sciq", row) == asked("Cold. \nQuestion: Ice?\nAnswer:", (" a", " b", " c", " d"), 3)
    assert question("sciq", {**row, "support": ""}).prompt == "\nQuestion: Ice?\nAnswer:"


def test_white_space_at_the_end_of_a_prompt_is_scored_with_the_candidates() -> None:
    found = question("openbookqa", {"query": "Fog is  ", "choices": ["here", "there"], "gold": 0})
    assert found == asked("Fog is", ("   here", "   there"), 0)


def test_winogrande_shares_whole_words_and_scores_white_space_after_an_option() -> None:
    row = {"sentence": "He saw the  _ .", "option1": "glow stick ", "option2": "glow sticks", "answer": "1"}
    assert question("winogrande", row) == asked("He saw the  glow", ("  .", " ."), 0, given=(" stick", " sticks"))
    begins = {"sentence": "_ won.", "option1": "Ann", "option2": "Anna", "answer": "1"}
    assert question("winogrande", begins) == asked("", (" won.", " won."), 0, given=("Ann", "Anna"))


TRUTH = {
    "question": "Do mice eat cheese?",
    "mc1_targets": {"choices": ["Rarely", "Yes"], "labels": [1, 0]},
    "mc2_targets": {"choices": ["Rarely", "No", "Yes", "Daily"], "labels": [1, 1, 0, 0]},
}
TRUTH_FILE = {
    "Question": "Do mice eat cheese?",
    "Best Answer": "Rarely",
    "Correct Answers": "Rarely; No;",
    "Incorrect Answers": "Yes; Daily",
}


def test_truthfulqa_has_one_true_answer_or_all_of_them() -> None:
    one, several = question("truthfulqa", TRUTH), question("truthfulqa_mc2", TRUTH)
    assert (one.candidates, one.correct) == ((" Rarely", " Yes"), (0,))
    assert (several.candidates, several.correct) == ((" Rarely", " No", " Yes", " Daily"), (0, 1))
    assert one.prompt == several.prompt
    assert str(one.prompt).endswith("in Barcelona, Spain.\n\nQ: Do mice eat cheese?\nA:")


def test_truthfulqa_from_its_file_has_all_wrong_answers() -> None:
    assert question("truthfulqa", TRUTH_FILE).candidates == (" Rarely", " Yes", " Daily")
    assert question("truthfulqa_mc2", TRUTH_FILE) == question("truthfulqa_mc2", TRUTH)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({**TRUTH, "mc1_targets": None}, "'mc1_targets' is None; must hold choices and labels."),
        ({**TRUTH, "mc1_targets": {"choices": ["a", "b"], "labels": [1]}}, "'mc1_targets' holds 2 choices and the labels [1]; must hold"),
        ({**TRUTH, "mc1_targets": {"choices": ["a", "b"], "labels": [1, 2]}}, "'mc1_targets' holds 2 choices and the labels [1, 2]"),
    ],
)
def test_truthfulqa_says_what_is_wrong_with_its_answers(row: Row, words: str) -> None:
    with pytest.raises(RowError) as wrong:
        question("truthfulqa", row)
    assert str(wrong.value).startswith(words)


def test_truthfulqa_without_a_wrong_answer_asks_nothing() -> None:
    with pytest.raises(DroppedRow, match="empty"):
        question("truthfulqa", {**TRUTH_FILE, "Incorrect Answers": " ; "})
