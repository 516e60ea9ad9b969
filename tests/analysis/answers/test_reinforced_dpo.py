"""Steps to a gold reward, of courses that are known."""

from __future__ import annotations

import math

import pytest

from alignkit.analysis.answers.reinforced_dpo import answer
from alignkit.errors import UserError


def job(arm, seed, course):
    rows = [{"step": 4 * place, "val/objective/gold": gold, "val/objective/scores": 2 * gold} for place, gold in enumerate(course)]
    results = {"start/val/objective/gold": course[0], "val/objective/gold": course[-1]}
    stages = {"ppo": {"config": {"seed": seed, "loss": {"name": "ppo"}}, "rows": rows, "results": results}}
    if arm == "reinforced_dpo":
        stages = {"dpo": {"config": {"seed": seed}, "results": {"completions": 1920}}} | stages
    return {"arm": arm, "pipeline": arm, "stages": stages}


def test_steps_are_those_of_the_first_validation_at_each_target(write_experiment):
    courses = {"rlhf": [(0.1, 0.45, 0.65), (0.1, 0.3, 0.6)], "reinforced_dpo": [(0.5, 0.4, 0.75), (0.35, 0.65, 0.85)]}
    told = answer(write_experiment([job(arm, seed, course) for arm, own in courses.items() for seed, course in enumerate(own)]))
    table = told.table.set_index("gold reward")
    assert table["steps rlhf"].to_dict() == {
        0.3: "4, 4",
        0.4: "4, 8",
        0.5: "8, 8",
        0.6: "8, 8",
        0.7: "never, never",
        0.8: "never, never",
    }
    assert table["steps reinforced_dpo"].to_dict() == {0.3: "0, 0", 0.4: "0, 4", 0.5: "0, 4", 0.6: "8, 4", 0.7: "8, 8", 0.8: "never, 8"}
    assert table.loc[0.5, "reinforced_dpo minus rlhf"] == -6.0
    assert table.loc[0.4, "reinforced_dpo minus rlhf"] == table.loc[0.4, "low"] == -4.0
    assert math.isnan(table.loc[0.7, "reinforced_dpo minus rlhf"])
    assert table["seeds where both did"].tolist() == [2, 2, 2, 2, 0, 0]
    text = "\n".join(told.findings)
    assert "0.4 was reached by all: PPO from DPO takes fewer steps, -4.0 [-4.0, -4.0]" in text
    assert "0.6 was reached by all: it cannot be told who takes fewer steps" in text
    assert "0.7 was reached by 2 of 2 runs from DPO and 0 of 2 from SFT, so that mean steps are not compared" in text
    assert text.count("of 2 seeds PPO from DPO was sooner in 2 and later in 0.") == 1  # at 0.7; at 0.8 in 1
    assert "had trained on 1920 completions" in text
    assert [axes.get_title(loc="left") for axes in told.figure.axes] == ["objective/gold, held out", "objective/scores, held out"]


def test_targets_that_nobody_reached_are_said_once(write_experiment):
    told = answer(write_experiment([job("rlhf", 0, (0.1, 0.2)), job("reinforced_dpo", 0, (0.1, 0.35))]))
    assert sum("No run reached" in finding for finding in told.findings) == 1
    assert any("No run reached 0.4 or more." in finding for finding in told.findings)
    assert told.table["gold reward"].tolist() == [0.3]


def test_one_side_alone_is_no_comparison(write_experiment):
    with pytest.raises(UserError, match="no PPO reinforced_dpo is finished"):
        answer(write_experiment([job("rlhf", 0, (0.1, 0.2))]))
