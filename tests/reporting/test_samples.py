from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from alignkit.analysis.runs import load_runs
from alignkit.reporting.samples import ADDED, LONGEST, MOST_PROMPTS, MOST_STEPS, REMOVED, SAME, answers, cut, differences, samples_of

WORDS = st.lists(st.sampled_from(["the", "film", "is", "dull", "great", "\n"]), max_size=12).map(" ".join)


def test_words_that_differ_are_told_apart() -> None:
    parts = differences("a dull film, with songs", "a great film, with many songs")
    assert parts == [(SAME, "a"), (REMOVED, " dull"), (ADDED, " great"), (SAME, " film, with"), (ADDED, " many"), (SAME, " songs")]


@given(WORDS, WORDS)
def test_both_texts_are_in_the_parts(old: str, new: str) -> None:
    parts = differences(old, new)
    assert "".join(text for kind, text in parts if kind != REMOVED) == new
    assert "".join(text for kind, text in parts if kind != ADDED).split() == old.split()
    words = [word for _, text in parts for word in text.split()]
    assert "".join(text for _, text in parts).split() == words  # no two are glued together
    if old == new:
        assert {kind for kind, _ in parts} <= {SAME}


def test_first_and_last_steps_are_shown_and_what_is_left_out_is_counted(tmp_path: Path, run_maker) -> None:
    rows = [{"step": step, "prompt": "p", "policy": f"{step}", "reference": "r"} for step in range(0, 200, 10)]
    run_maker(tmp_path / "a", config={"loss": {"name": "dpo"}}, samples=rows)
    told = samples_of(load_runs(tmp_path))
    assert len(told["steps"]) == MOST_STEPS
    assert (told["steps"][0], told["steps"][-1]) == (0, 190)
    assert told["left_out"] == 20 - MOST_STEPS
    assert told["references"] == ["r"]
    assert {answer["reference"] for item in told["items"] for answer in item["answers"]} == {0}


def test_of_many_prompts_the_first_are_shown(tmp_path: Path, run_maker) -> None:
    rows = [{"step": 0, "prompt": f"prompt {number}", "policy": "a", "reference": "a"} for number in range(MOST_PROMPTS + 3)]
    run_maker(tmp_path / "a", config={"loss": {"name": "dpo"}}, samples=rows)
    told = samples_of(load_runs(tmp_path))
    assert (len(told["prompts"]), told["left_out"]) == (MOST_PROMPTS, 3)


def test_generated_samples_come_best_first_with_their_scores(tmp_path: Path, run_maker) -> None:
    prompt = [{"role": "user", "content": "hello"}]
    row = {"prompt": prompt, "completions": ["low", "high"], "scores": [-1.0, 2.0], "gold": [0.5, 0.25], "parts": {}}
    run_maker(tmp_path / "a", config={"loss": {"name": "dpo"}}, samples=[row])
    told = samples_of(load_runs(tmp_path))
    (item,) = told["items"]
    assert [answer["parts"] for answer in item["answers"]] == [[(SAME, "high")], [(SAME, "low")]]
    assert item["answers"][0]["scores"] == {"score": 2.0, "gold": 0.25}
    assert told["prompts"] == ["user: hello"]
    assert told["references"] == []


def test_scores_of_a_row_are_told() -> None:
    (answer,) = answers({"run": "a", "step": 3, "prompt": "p", "policy": "x", "reference": "x", "gold": 0.5, "finished": True})
    assert answer["scores"] == {"gold": 0.5}


def test_a_long_text_is_cut_and_says_so() -> None:
    assert cut("x" * (LONGEST + 5)) == "x" * LONGEST + " … (5 more characters)"
    assert cut("  short\n") == "short"


def test_runs_without_samples_have_none(tmp_path: Path, run_maker) -> None:
    run_maker(tmp_path / "a", config={"loss": {"name": "dpo"}})
    assert samples_of(load_runs(tmp_path))["items"] == []
