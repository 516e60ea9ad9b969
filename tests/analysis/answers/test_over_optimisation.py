"""Over-optimisation on courses that have the paper's forms."""

from __future__ import annotations

import math

import pytest

from alignkit.analysis.answers.over_optimisation import answer
from alignkit.errors import UserError

PLACES = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
"""d at the validations."""


def ppo(seed, beta, *, alpha=1.0):
    """A run whose gold follows d (alpha - beta ln d) from 0.2 on, while its own reward grows with d."""
    rows = [
        {
            "step": step,
            "val/objective/kl": d * d,
            "val/objective/scores": d,
            "val/objective/gold": 0.2 + seed / 100 + (d * (alpha - beta * math.log(d)) if d else 0.0),
        }
        for step, d in enumerate(PLACES)
    ]
    return {"config": {"seed": seed}, "rows": rows, "results": {}}


def best(seed, *, alpha=1.0, beta):
    results = {}
    for n in (1, 2, 4, 8, 16):
        bound = math.log(n) - (n - 1) / n
        d = math.sqrt(bound)
        results |= {f"best_of_{n}/kl_bound": bound, f"best_of_{n}/score": d, f"best_of_{n}/gold": 0.2 + d * (alpha - beta * d)}
    return {"config": {"seed": seed}, "results": results}


def learned(seed, pairs, *, beta, best_beta):
    reward = {"config": {"seed": seed, "dataset": {"pairs": pairs}}}
    return {"arm": "learned", "stages": {"reward": reward, "best": best(seed, beta=best_beta), "ppo": ppo(seed, beta)}}


def test_forms_are_recovered_and_falls_are_seen_where_they_are(write_experiment):
    jobs = [
        learned(seed, pairs, beta=beta, best_beta=best_beta)
        for pairs, beta, best_beta in ((2000, 0.2, 0.0), (60, 0.6, 0.5))
        for seed in (0, 1, 2)
    ]
    jobs += [{"arm": "true", "stages": {"ppo": ppo(seed, 0.0)}} for seed in (0, 1, 2)]
    told = answer(write_experiment(jobs))
    rows = told.table.set_index(["method", "reward"])
    assert list(rows.index) == [
        ("PPO", "60 preferences"),
        ("best of N", "60 preferences"),
        ("PPO", "2000 preferences"),
        ("best of N", "2000 preferences"),
        ("PPO", "the true reward"),
    ]
    assert rows.loc[("PPO", "60 preferences"), ["alpha", "beta"]].tolist() == pytest.approx([1.0, 0.6], abs=0.02)
    assert rows.loc[("best of N", "60 preferences"), ["alpha", "beta"]].tolist() == pytest.approx([1.0, 0.5], abs=1e-6)
    # 60: e^(1 / 0.6 - 1) is 1.95, so that of the places 2 is highest; 2000: e^4 is 55, beyond the end.
    assert rows.loc[("PPO", "60 preferences"), "d, peak"] == 2.0
    assert rows.loc[("PPO", "60 preferences"), "fall"] == pytest.approx(2 * (1 - 0.6 * math.log(2)) - 6 * (1 - 0.6 * math.log(6)))
    assert rows.loc[("PPO", "2000 preferences"), "d, peak"] == 6.0
    assert rows.loc[("PPO", "2000 preferences"), "fall"] == 0.0
    text = "\n".join(told.findings)
    assert "PPO on 60 preferences: at its end, d 6.00, the reward that it optimises has gained 6.00" in text
    assert "its peak is at d 1.95." in text
    assert "no fall seen: its peak, d 54.6" in text
    assert "PPO on the true reward: gold as d (alpha - beta ln d): alpha 1.00 [1.00, 1.00], beta" in text
    assert "PPO, at d 6.00, which all of these runs reach: gold on 2000 preferences is higher than gold on 60 preferences" in text
    assert (
        "PPO: the peaks of mean gold lie at d 2.00 (60 preferences), 6.00 or later (2000 preferences), in the order of preferences." in text
    )
    assert len(told.figure.axes) == 4


def test_one_seed_is_told_without_intervals(write_experiment):
    told = answer(write_experiment([learned(0, 60, beta=0.6, best_beta=0.5)]))
    assert any("does not clearly fall" in finding for finding in told.findings)
    assert any("no fall seen" in finding for finding in told.findings)


def test_without_ppo_there_is_no_answer(write_experiment):
    with pytest.raises(UserError, match="no PPO is finished"):
        answer(write_experiment([{"arm": "learned", "stages": {"reward": {"config": {"seed": 0, "dataset": {"pairs": 60}}}, "ppo": None}}]))
