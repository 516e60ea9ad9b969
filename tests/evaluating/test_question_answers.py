"""`questions.jsonl`, read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignkit.data.questions import Question
from alignkit.errors import UserError
from alignkit.evaluating.question_answers import QuestionAnswers

FIRST = Question(prompt="1+1?", candidates=(" 3", " 2"), correct=(1,))
SECOND = Question(prompt="2+2?", candidates=(" 4", " 5", " 6"), correct=(0,), group="sums")
THIRD = Question(prompt="3+3?", candidates=(" 6", " 7"), correct=(0,))


def row(task: str, question: Question, **scores: list[float]) -> dict[str, Any]:
    return {
        "task": task,
        "question": question.digest,
        "group": question.group,
        "correct": list(question.correct),
        "scores": scores,
        "tokens": list(range(1, len(question.candidates) + 1)),
    }


@pytest.fixture
def answers(tmp_path: Path) -> QuestionAnswers:
    """What two scorers said of two questions of one task, in another order, and of one of another."""
    rows = [
        row("sums", SECOND, dph=[0.1, 0.2, 0.3], logp_sum=[-1.0, -2.0, -3.0]),
        row("sums", FIRST, dph=[0.5, 0.25]),
        row("others", FIRST, dph=[9.0, 8.0]),
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return QuestionAnswers.read(file)


def test_questions_that_were_asked_there_too_are_found_in_the_order_they_are_asked(answers: QuestionAnswers) -> None:
    found = answers.graded("sums", [FIRST, THIRD, SECOND], "dph")
    assert found is not None
    places, graded = found
    assert places == [0, 2]
    assert graded.questions == (FIRST, SECOND)
    assert [own.tolist() for own in graded.scores] == [[0.5, 0.25], [0.1, 0.2, 0.3]]
    assert [own.tolist() for own in graded.lengths] == [[1, 2], [1, 2, 3]]


def test_only_what_that_scorer_said_counts(answers: QuestionAnswers) -> None:
    found = answers.graded("sums", [FIRST, SECOND], "logp_sum")
    assert found is not None
    assert found[0] == [1]
    assert found[1].log_probabilities
    assert answers.graded("sums", [FIRST, SECOND], "vader") is None
    assert answers.graded("nothing", [FIRST, SECOND], "dph") is None


def test_the_same_question_of_another_task_is_another_one(answers: QuestionAnswers) -> None:
    found = answers.graded("others", [FIRST], "dph")
    assert found is not None
    assert found[1].scores[0].tolist() == [9.0, 8.0]


def test_questions_are_told_apart_by_their_texts_alone() -> None:
    same = Question(prompt="1+1?", candidates=(" 3", " 2"), correct=(0,), group="x", value=2.0)
    others = [
        Question(prompt="1+1? ", candidates=(" 3", " 2"), correct=(1,)),
        Question(prompt="1+1?", candidates=(" 2", " 3"), correct=(0,)),
        Question(prompt="1+1?", candidates=(" 3", " 2"), given=("a", "b"), correct=(1,)),
    ]
    assert same.digest == FIRST.digest
    assert len({FIRST.digest, *(other.digest for other in others)}) == 4


def test_an_evaluation_with_nothing_in_common_is_refused_with_what_it_holds(answers: QuestionAnswers) -> None:
    answers.check_shared({"sums": [THIRD, FIRST], "nothing": [FIRST]}, ["vader", "dph"])
    for asked, scorers in (({"sums": [THIRD]}, ["dph"]), ({"sums": [FIRST]}, ["logp_sum"]), ({"nothing": [FIRST]}, ["dph"])):
        with pytest.raises(UserError, match=r"holds none of these questions by these scorers, .* sums, others by dph, logp_sum\.$"):
            answers.check_shared(asked, scorers)


@pytest.mark.parametrize("text", ["{", "{}\n", '{"task": "a"}\n', "[1]\n"])
def test_what_is_no_such_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text(text)
    with pytest.raises(UserError, match=r"^against: .*questions\.jsonl cannot be read \("):
        QuestionAnswers.read(file)
    with pytest.raises(UserError, match=r"cannot be read \(FileNotFoundError"):
        QuestionAnswers.read(tmp_path / "none.jsonl")
