"""Rounds of known gold rewards, by judge."""

from __future__ import annotations

import itertools
import math

import pytest

from alignkit.analysis.answers.iterative_dpo import answer
from alignkit.errors import UserError

GOLD = "val/objective/gold"


def job(judge, seed, course, wins=()):
    """`course`: gold before the first round and after each."""
    stages = {}
    for place, (before, after) in enumerate(itertools.pairwise(course), start=1):
        config = {"seed": seed, "loss": {"name": "dpo"}}
        stages[f"dpo_{place}"] = {"config": config, "results": {f"start/{GOLD}": before, GOLD: after}}
        stages[f"win_{place}"] = {"config": config, "results": {"win_rate": wins[place - 1] if wins else 0.75}}
    return {"arm": judge, "pipeline": "iterative_dpo", "stages": stages}


def test_rounds_are_compared_with_what_was_before_and_with_the_policy_as_its_own_judge(write_experiment):
    courses = {"gold": [(0.5, 0.7, 0.8), (0.4, 0.6, 0.8)], "self": [(0.5, 0.6, 0.5), (0.4, 0.5, 0.6)]}
    told = answer(write_experiment([job(judge, seed, course) for judge, own in courses.items() for seed, course in enumerate(own)]))
    table = told.table.set_index(["judge", "round"])
    assert table["gold before"].to_dict() == pytest.approx({("gold", 1): 0.45, ("gold", 2): 0.65, ("self", 1): 0.45, ("self", 2): 0.55})
    assert table["gain"].to_dict() == pytest.approx({("gold", 1): 0.2, ("gold", 2): 0.15, ("self", 1): 0.1, ("self", 2): 0.0})
    assert table.loc[("gold", 1), "after, minus self"] == pytest.approx(0.1)
    assert table.loc[("gold", 2), "after, minus self"] == pytest.approx(0.25)
    assert math.isnan(table.loc[("self", 2), "after, minus self"])
    assert set(table["win rate by the judge"]) == {0.75}
    text = "\n".join(told.findings)
    assert "judge=gold: the true reward goes from 0.450" in text
    assert "round 1 raises it by 0.200 [0.200, 0.200] (up in 2 of 2 seeds)" in text
    assert "round 2 does not clearly change it by 0.000" in text
    assert "(up in 1 of 2 seeds)" in text
    assert "After round 2 the true reward of the policy that the true reward judged is not told apart from that" in text
    (axes,) = told.figure.axes
    assert [text.get_text() for text in told.figure.legends[0].get_texts()] == ["gold", "self"]
    assert axes.get_xlabel() == "rounds"
    assert axes.containers[1][0].get_ydata().tolist() == pytest.approx([0.45, 0.55, 0.55])  # of self: before, and after each round


def test_rounds_that_were_skipped_are_left_out(write_experiment):
    told = answer(write_experiment([job("gold", 0, (0.5, 0.7, 0.8)), job("self", 0, (0.5, 0.4))]))
    assert [tuple(row) for row in told.table[["judge", "round"]].to_numpy()] == [("gold", 1), ("gold", 2), ("self", 1)]
    assert any("After round 1 the true reward" in finding for finding in told.findings)


def test_no_round_is_no_answer(write_experiment):
    with pytest.raises(UserError, match="no round is finished"):
        answer(write_experiment([{"arm": "gold", "pipeline": "iterative_dpo", "stages": {"sft": {"config": {"seed": 0}}}}]))
