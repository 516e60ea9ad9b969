"""The frontier at equal KL, on experiments whose rewards are known functions of KL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from alignkit.analysis.answers.frontier import answer, best_of_points, starts, trained_points
from alignkit.analysis.runs import Runs
from alignkit.errors import UserError

START = 0.2


def policy(key: str, seed: int, strength: float, kl: float, gold: float) -> dict[str, Any]:
    group, name = key.split(".")
    results = {
        "val/objective/kl": kl,
        "val/objective/kl_standard_error": 0.1,
        "val/objective/gold": gold,
        "val/objective/gold_std": 0.6,
        "start/val/objective/gold": START + seed / 100,
        "val/rollout/distinct_2": 0.5 - kl / 20,
        "start/val/rollout/distinct_2": 0.5,
        "data/validation": 36,
    }
    return {"config": {"seed": seed, group: {name: strength}, "optimizer": {"lr": 1e-3}}, "results": results}


def jobs() -> list[dict[str, Any]]:
    """DPO gains 0.1 a nat, PPO 0.05 a nat as far as 2 nats; the best of N lies at bounds of ln N - (N - 1) / N."""
    told: list[dict[str, Any]] = []
    for seed in range(3):
        start = START + seed / 100
        for beta, kl in ((1.0, 1.0), (0.1, 4.0)):
            told.append({"arm": "dpo", "stages": {"sft": {}, "policy": policy("loss.beta", seed, beta, kl, start + 0.1 * kl)}})
        told.append({"arm": "ppo", "stages": {"ppo": policy("loss.kl_coefficient", seed, 0.1, 2.0, start + 0.1)}})
        best = {"best_of_1/gold": start, "best_of_1/kl_bound": 0.0, "best_of_4/gold": start + 0.3, "best_of_4/kl_bound": 0.6363}
        told.append({"arm": "best_of_n", "stages": {"best": {"config": {"seed": seed}, "results": best}}})
    return told


def test_methods_are_read_off_at_equal_kl(write_experiment: Callable[..., Runs]) -> None:
    table = answer(write_experiment(jobs())).table.set_index(["KL (nats)", "method"])
    assert table.loc[(2.0, "dpo"), "gold"] == pytest.approx(0.21 + 0.2)  # the mean of the starts is 0.21
    assert table.loc[(2.0, "ppo"), "gold"] == pytest.approx(0.21 + 0.1)
    assert table.loc[(2.0, "ppo"), "minus dpo"] == pytest.approx(-0.1)
    assert table.loc[(0.5, "ppo"), "gold"] == pytest.approx(0.21 + 0.025)  # on the line from the start
    assert table.loc[(0.5, "best of N, reward model"), "gold"] == pytest.approx(0.21 + 0.3 * 0.5 / 0.6363)
    assert table.loc[(0.5, "dpo"), "all reach it"]
    assert not table.loc[(2.0, "dpo"), "all reach it"]
    assert (4.0, "ppo") not in table.index
    assert (4.0, "dpo") in table.index


def test_points_have_strengths_seeds_and_errors(write_experiment: Callable[..., Runs]) -> None:
    runs = write_experiment(jobs())
    trained, sampled = trained_points(runs), best_of_points(runs)
    assert sorted(set(trained["strength"])) == ["0.1, lr 0.001", "1, lr 0.001"]
    assert trained["reward_error"].tolist() == pytest.approx([0.1] * len(trained))  # 0.6 / sqrt(36)
    assert sorted(set(sampled["strength"])) == [1, 4]
    begun = starts(trained, sampled)
    assert set(begun["method"]) == {"dpo", "ppo"}  # the best of 1 is a start already
    assert begun["reward"].tolist() == pytest.approx([0.20, 0.21, 0.22] * 2)


def test_findings_name_the_order_the_differences_and_the_reach(write_experiment: Callable[..., Runs]) -> None:
    findings = " ".join(answer(write_experiment(jobs())).findings)
    assert "At 0.5 nats, gold reward is best of N, reward model 0.45" in findings
    assert "ppo against dpo at equal KL and seed (0.25, 0.5, 1, 2 nats): above at 0, below at 4" in findings
    assert "the largest difference is -0.10 [-0.10, -0.10] at 2 nats" in findings
    assert "Reach, the largest KL of all seeds: ppo 2.0, dpo 4.0, best of N, reward model 0.6 nats." in findings
    assert "distinct-2): 0.50 at the start" in findings


def test_without_the_baseline_there_is_no_comparison(write_experiment: Callable[..., Runs]) -> None:
    with pytest.raises(UserError, match="no run of dpo is finished"):
        answer(write_experiment([job for job in jobs() if job["arm"] != "dpo"]))
