"""Any file of preferences as a benchmark."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignkit.data.examples import Message
from alignkit.data.question_rows import read_questions
from alignkit.data.rows import DroppedRow, RowError
from alignkit.errors import UserError
from alignkit.evaluation.tasks.preference_pairs import PreferencePairs

TASK = PreferencePairs()
USER = {"role": "user", "content": "1+1?"}


def turn(content: str) -> dict[str, str]:
    return {"role": "assistant", "content": content}


def test_texts_are_joined_as_they_stand() -> None:
    question = TASK.to_example({"prompt": "1+1?", "chosen": " 2", "rejected": " 3", "subset": "sums"})
    assert (question.prompt, question.candidates, question.correct, question.group) == ("1+1?", (" 2", " 3"), (0,), "sums")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "1+1?", "chosen": [turn("2")], "rejected": [turn("3")]},
        {"prompt": [USER], "chosen": [turn("2")], "rejected": [turn("3")]},
        {"chosen": [USER, turn("2")], "rejected": [USER, turn("3")], "subset": 7},
    ],
)
def test_messages_are_dialogues(row: dict[str, object]) -> None:
    question = TASK.to_example(row)
    assert question.prompt == (Message(role="user", content="1+1?"),)
    assert (question.candidates, question.group) == (("2", "3"), "")


def test_without_a_prompt_it_is_what_both_sides_share() -> None:
    question = TASK.to_example({"chosen": "A prime is 7", "rejected": "A prime is 9"})
    assert (question.prompt, question.candidates) == ("A prime is", (" 7", " 9"))


def test_what_is_no_pair_is_refused() -> None:
    assert TASK.missing(("prompt", "chosen")) == ("rejected",)
    assert TASK.missing(("prompt", "completions", "scores")) == ("chosen", "rejected")
    assert TASK.missing(("promt", "chosen", "rejected")) == ("prompt",)
    assert TASK.missing(("chosen", "rejected")) == ()
    with pytest.raises(RowError, match="holds no pair"):
        TASK.to_example({"prompt": "1+1?", "completions": [" 2", " 3"], "chosen": "a", "rejected": "b"})
    with pytest.raises(DroppedRow, match="identical"):
        TASK.to_example({"prompt": "1+1?", "chosen": " 2", "rejected": " 2 "})


def test_a_file_is_read_and_its_faults_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    pairs = [("1+1?", " 2", " 3"), ("2+2?", " 4", " 4"), ("3+3?", " 6", " 7")]
    file.write_text("".join(json.dumps(dict(zip(("prompt", "chosen", "rejected"), pair, strict=True))) + "\n" for pair in pairs))
    read = read_questions(TASK, "preference_pairs", str(file), train=False, where="evaluation.path")
    assert [question.prompt for question in read.questions] == ["1+1?", "3+3?"]
    assert read.counts == {"rows": 3, "identical": 1}
    file.write_text('{"prompt": "1+1?", "chosen": " 2"}\n')
    with pytest.raises(UserError, match="lacks the column rejected"):
        read_questions(TASK, "preference_pairs", str(file), train=False, where="evaluation.path")
