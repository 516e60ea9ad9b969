"""Accuracy under flipped labels, and the share of them that is recovered."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from alignkit.analysis.answers.label_noise import answer, share_flipped
from alignkit.analysis.runs import Runs


def job(arm: str, seed: int, flips: float, accuracy: float, rows: list[dict[str, float]] = []) -> dict[str, Any]:  # noqa: B006
    config = {"seed": seed, "steps": 20, "dataset": {"noise": flips}}
    return {"arm": arm, "stages": {"policy": {"config": config, "results": {"val/rewards/accuracies": accuracy}, "rows": rows}}}


def epoch(seed: int, flips: float) -> dict[str, Any]:
    """One epoch of a policy that is right in 0.9 of all pairs in its second half, and learns nothing before."""
    agreed = 0.9 * (1 - flips) + 0.1 * flips
    rows = [{"step": step, "train/rewards/accuracies": 0.5 if step <= 10 else agreed} for step in range(5, 21, 5)]
    rows += [{"step": 0, "val/rewards/accuracies": 0.5}, {"step": 20, "val/rewards/accuracies": 0.9}]
    return job("one_epoch", seed, flips, 0.9, rows)


@pytest.mark.parametrize("flips", [0.0, 0.1, 0.4])
def test_the_share_of_flips_is_recovered_from_what_it_does_to_agreement(flips: float) -> None:
    for right in (0.6, 0.9, 1.0):
        assert share_flipped(right * (1 - flips) + (1 - right) * flips, right) == pytest.approx(flips)
    assert math.isnan(share_flipped(0.5, 0.5))


def test_losses_are_compared_with_themselves_without_flips_and_with_dpo(write_experiment: Callable[..., Runs]) -> None:
    jobs = []
    for seed, shift in ((0, -0.01), (1, 0.0), (2, 0.01)):
        jobs += [job("dpo", seed, 0.0, 0.9 + shift), job("dpo", seed, 0.2, 0.7 + 2 * shift)]
        jobs += [job("cdpo", seed, 0.0, 0.9 + shift), job("cdpo", seed, 0.2, 0.88 + shift)]
        jobs += [epoch(seed, 0.0), epoch(seed, 0.2)]
    told = answer(write_experiment(jobs))
    table = told.table.set_index(["loss", "flips"])
    assert table.loc[("dpo", 0.2), "change to no flips"] == pytest.approx(-0.2)
    assert table.loc[("cdpo", 0.2), "change to no flips"] == pytest.approx(-0.02)
    assert table.loc[("cdpo", 0.2), "minus dpo"] == pytest.approx(0.18)
    assert table.loc[("cdpo", 0.2), "minus dpo low"] == pytest.approx(0.18 - 4.302652729 * 0.01 / math.sqrt(3))
    assert table.loc[("dpo, one epoch", 0.2), "recovered"] == pytest.approx(0.2)
    assert math.isnan(table.loc[("dpo", 0.2), "recovered"])
    findings = " ".join(told.findings)
    assert "At 20% flips these lose at most 0.05 of the accuracy that they have without: cdpo (-0.020), dpo, one epoch (+0.000)" in findings
    assert "these lose more: dpo (-0.200)" in findings
    assert "At 20% flips cdpo is above dpo: 0.180" in findings
    assert "0: 0.000" in findings
    assert "0.2: 0.200" in findings
    assert "Mean error 0.000" in findings
