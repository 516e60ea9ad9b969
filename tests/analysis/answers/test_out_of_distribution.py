"""Gains on usual and shifted prompts that are known."""

from __future__ import annotations

import pytest

from alignkit.analysis.answers.out_of_distribution import answer
from alignkit.errors import UserError

GOLD = {"sft": (0.2, 0.1), "dpo": (0.6, 0.3), "ppo": (0.7, 0.1)}
"""On usual and on shifted prompts."""


def job(method, seed, usual, shifted):
    stages = {
        name: {"config": {"seed": seed}, "results": {"objective/gold": gold + seed / 100, "objective/kl": kl}}
        for name, gold, kl in (("usual", usual, 3.0), ("shifted", shifted, 5.0))
    }
    return {"arm": method, "stages": {"sft": {"config": {"seed": seed}}, **stages}}


def test_gains_over_supervised_fine_tuning_are_paired_and_their_share_is_said(write_experiment):
    told = answer(write_experiment([job(method, seed, *gold) for method, gold in GOLD.items() for seed in (0, 1, 2)]))
    rows = told.table.set_index(["method", "prompts"])
    assert rows.loc[("dpo", "shifted"), "gold"] == pytest.approx(0.31)
    assert rows.loc[("ppo", "usual"), "kl"] == 3.0
    text = "\n".join(told.findings)
    assert "dpo gains 0.40 [0.40, 0.40] over sft on usual prompts and 0.20 [0.20, 0.20] on shifted ones, 50% of it" in text
    assert "0% of it; on shifted ones it is not told apart from sft." in text
    assert "On usual prompts dpo is worse than ppo: -0.10" in text
    assert "On shifted prompts dpo is better than ppo: 0.20" in text


def test_a_policy_that_gains_nothing_has_no_share_left(write_experiment):
    told = answer(write_experiment([job(method, seed, 0.2, 0.2) for method in ("sft", "dpo") for seed in (0, 1)]))
    assert any("over sft on usual prompts" in finding and "% of it" not in finding for finding in told.findings)


def test_prompts_of_one_kind_are_no_comparison(write_experiment):
    runs = write_experiment([{"arm": "sft", "stages": {"sft": {"config": {"seed": 0}}, "usual": {"config": {"seed": 0}}, "shifted": None}}])
    with pytest.raises(UserError, match="prompts of both kinds"):
        answer(runs)
