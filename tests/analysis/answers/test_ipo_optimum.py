"""Whether runs are at IPO's optimum, by the loss over all pairs and not by the mean of their gaps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from alignkit.analysis.answers.ipo_optimum import answer
from alignkit.analysis.runs import Runs


def job(loss: str, seed: int, beta: float, h: tuple[float, float], end: float) -> dict[str, Any]:
    """A run of 20 steps with gaps `h` half way and at the end, and a loss at the end."""
    rows = [
        {"step": 10, "train/rewards/margins": beta * h[0], "train/loss": 1.0},
        {"step": 20, "train/rewards/margins": beta * h[1], "train/loss": end},
    ]
    config = {"seed": seed, "steps": 20, "loss": {"name": loss, "beta": beta}}
    return {"arm": loss, "stages": {"policy": {"config": config, "rows": rows}}}


def test_the_optimum_is_reached_where_every_pair_is(write_experiment: Callable[..., Runs]) -> None:
    ipo = [job("ipo", seed, 0.5, (0.9, 1.0), end) for seed, end in ((0, 1e-6), (1, 4e-6))]
    far = [job("ipo", seed, 0.1, (5.0, 5.0), 0.01) for seed in (0, 1)]  # right on average, and pairs are 0.1 nats off
    dpo = [job("dpo", seed, 0.1, (10.0, 12.0), 0.1) for seed in (0, 1)]
    told = answer(write_experiment([*ipo, *far, *dpo]))
    table = told.table.set_index(["loss", "beta"])
    assert table.loc[("ipo", 0.5), "optimum of h"] == 1.0
    assert table.loc[("ipo", 0.1), "optimum of h"] == 5.0
    assert table.loc[("dpo", 0.1), "optimum of h"] == math.inf
    assert table.loc[("ipo", 0.5), "largest distance from it"] == pytest.approx(2e-3)
    assert table.loc[("dpo", 0.1), ["h half way", "h"]].tolist() == pytest.approx([10.0, 12.0])
    findings = " ".join(told.findings)
    assert "IPO, tau = 0.5: optimum 1 / (2 tau) = 1 nats" in findings
    assert "0.20% of it: all of 2 seeds are within 1%" in findings
    assert "2.00% of it: 0 of 2 seeds are within 1%" in findings
    assert "by a factor of 1.200 to 1.200: it grows in every seed" in findings


def test_a_margin_that_shrinks_is_said_to(write_experiment: Callable[..., Runs]) -> None:
    runs = write_experiment([job("dpo", 0, 0.1, (10.0, 12.0), 0.1), job("dpo", 1, 0.1, (10.0, 9.0), 0.1)])
    assert "it does not grow in every seed" in answer(runs).findings[0]
