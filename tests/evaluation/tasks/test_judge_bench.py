"""JudgeBench: labels, writers and domains."""

from __future__ import annotations

import pytest

from alignkit.data.examples import Message
from alignkit.data.rows import DroppedRow, RowError
from alignkit.evaluation.tasks.judge_bench import JudgeBench

TASK = JudgeBench()
ROW = {
    "source": "mmlu-pro-computer science",
    "question": "1+1?",
    "response_model": "gpt-4o-2024-05-13",
    "response_A": "3",
    "response_B": "2",
    "label": "B>A",
}


@pytest.mark.parametrize(("label", "candidates"), [("A>B", ("3", "2")), ("B>A", ("2", "3"))])
def test_the_label_says_which_response_is_correct(label: str, candidates: tuple[str, str]) -> None:
    question = TASK.to_example({**ROW, "label": label})
    assert question.prompt == (Message(role="user", content="1+1?"),)
    assert (question.candidates, question.correct) == (candidates, (0,))


def test_ties_are_dropped_and_other_labels_refused() -> None:
    with pytest.raises(DroppedRow) as dropped:
        TASK.to_example({**ROW, "label": "A=B"})
    assert dropped.value.reason == "tie"
    with pytest.raises(RowError, match="'label' is 'A'; must be one of A>B, B>A"):
        TASK.to_example({**ROW, "label": "A"})


@pytest.mark.parametrize(
    ("source", "model", "group"),
    [
        ("mmlu-pro-law", "gpt-4o-2024-05-13", "gpt_knowledge"),
        ("livebench-reasoning", "claude-3-5-sonnet-20240620", "claude_reasoning"),
        ("livebench-math", "gpt-4o-2024-05-13", "gpt_math"),
        ("livecodebench", "claude-3-5-sonnet-20240620", "claude_coding"),
        ("elsewhere", "gpt-4o-2024-05-13", ""),
    ],
)
def test_groups_are_a_writers_pairs_in_a_domain(source: str, model: str, group: str) -> None:
    assert TASK.to_example({**ROW, "source": source, "response_model": model}).group == group
    assert not group or sum(group in groups for groups in TASK.SECTIONS.values()) == 2, "once by writer, once by domain"
