"""Displacement on runs whose changes are known."""

from __future__ import annotations

import pytest

from alignkit.analysis.answers.displacement import answer
from alignkit.errors import UserError


def stage(loss, seed, change, *, weight=None):
    config = {"seed": seed, "loss": {"name": loss, **({} if weight is None else {"nll_weight": weight})}}
    names = ("val/logps/chosen", "val/logps/rejected", "val/rewards/margins")
    rows = [{"step": step, **dict(zip(names, values, strict=True))} for step, values in ((0, (-30, -28, 0)), (9, (-30 + change, -38, 1)))]
    results = {
        "val/logps/chosen_change": change,
        "start/val/logps/rejected": -28.0,
        "val/logps/rejected": -38.0 - seed,
        "val/logps/chosen_fell": 0.75,
        "val/rewards/margins": 1.0 + seed,
        "val/rewards/accuracies": 0.8,
        "val/objective/gold": 0.5,
    }
    return {"arm": loss, "stages": {"sft": {"config": {"seed": seed}}, "policy": {"config": config, "results": results, "rows": rows}}}


def test_losses_that_lose_and_that_keep_the_chosen_side_are_told_apart(write_experiment):
    changes = {"dpo": (-5.0, -6.0, -7.0), "orpo": (1.0, 1.5, 2.0), "cdpo": (-3.0, 0.5, 3.0)}
    told = answer(write_experiment([stage(loss, seed, change) for loss, own in changes.items() for seed, change in enumerate(own)]))
    assert told.table["method"].tolist() == ["dpo", "orpo", "cdpo"]
    assert told.table["chosen change"].tolist() == pytest.approx([-6.0, 1.5, 1 / 6])
    assert told.table["rejected change"].tolist() == pytest.approx([-11.0] * 3)  # -38 - seed + 28
    text = "\n".join(told.findings)
    # t(0.975, 2) / sqrt(3) is 2.4841 standard deviations, which are 1 here.
    assert "dpo: log pi of chosen held-out answers changed by -6.0 [-8.5, -3.5] nats, and 75% of them" in text
    assert "less likely than before, under: dpo." in text
    assert "became more likely under: orpo." in text
    assert "Not told apart from no change of the chosen side: cdpo." in text
    assert "orpo keeps more of the chosen likelihood than dpo at equal seeds: 7.5 " in text
    assert "did not clearly move" in text  # margins 1, 2, 3: 2 +- 2.48
    assert len(told.figure.axes) == 3


def test_weights_of_one_loss_are_methods_of_their_own(write_experiment):
    jobs = [stage("dpo_nll", seed, 1.0, weight=weight) for weight in (0.005, 0.05) for seed in (0, 1)]
    told = answer(write_experiment([*jobs, stage("dpo", 0, -1.0)]))
    assert told.table["method"].tolist() == ["dpo_nll, nll_weight 0.005", "dpo_nll, nll_weight 0.05", "dpo"]
    assert told.table["seeds"].tolist() == [2, 2, 1]


def test_without_a_finished_policy_there_is_no_answer(write_experiment):
    with pytest.raises(UserError, match="no stage 'policy' is finished"):
        answer(write_experiment([{"arm": "dpo", "stages": {"sft": {"config": {"seed": 0}}, "policy": None}}]))
