"""Lengths that are known."""

from __future__ import annotations

import pytest

from alignkit.analysis.answers.length_bias import answer
from alignkit.errors import UserError


def job(loss, bias, seed, length, *, ended=1.0):
    config = {"seed": seed, "loss": {"name": loss}, "dataset": {"length_bias": bias}}
    results = {"val/rollout/length": length, "start/val/rollout/length": 30.0, "val/objective/gold": 0.5, "start/val/objective/gold": 0.1}
    return {"arm": loss, "stages": {"policy": {"config": config, "results": results | {"val/rollout/terminated": ended}}}}


def test_what_the_bias_adds_is_taken_at_equal_seeds_and_ordered(write_experiment):
    jobs = [job("simpo", bias, seed, 30.0 + 2 * seed + bias * 4) for bias in (0.0, 0.5) for seed in (0, 1, 2)]
    jobs += [job("dpo", bias, seed, 31.0 + 5 * seed + bias * 20, ended=0.8) for bias in (0.0, 0.5) for seed in (0, 1, 2)]
    told = answer(write_experiment(jobs))
    rows = told.table.set_index(["loss", "length bias"])
    assert rows.loc[("dpo", 0.5), "length"] == 46.0
    text = "\n".join(told.findings)
    assert "The bias makes them longer, by 10.0 [10.0, 10.0] at equal seeds" in text
    assert "By what the bias adds, most first: dpo +10.0, simpo +2.0 tokens." in text
    assert "cut before they ended hide length: dpo 20% of them" in text
    assert "gold reward not clearly other" not in text or "0.00 [0.00, 0.00]" in text


def test_one_bias_alone_says_nothing_of_what_it_adds(write_experiment):
    told = answer(write_experiment([job("dpo", 0.5, seed, 40.0) for seed in (0, 1)]))
    assert "Only one length bias was run" in told.findings[-1]


def test_without_a_finished_policy_there_is_no_answer(write_experiment):
    with pytest.raises(UserError, match="no stage 'policy' is finished"):
        answer(write_experiment([{"arm": "dpo", "stages": {"other": {"config": {"seed": 0}}, "policy": None}}]))
