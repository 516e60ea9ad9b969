from __future__ import annotations

from pathlib import Path

import pytest

from alignkit.analysis.runs import load_runs
from alignkit.reporting.comparison import compare
from alignkit.reporting.maps import frontier, heat_maps

ACCURACIES, GOLD, KL = "val/rewards/accuracies", "val/objective/gold", "val/objective/kl"


def test_cells_are_means_over_seeds_in_order_of_size(tmp_path: Path, run_maker) -> None:
    for beta, epsilon, seed, value in ((10, 0.1, 0, 0.5), (10, 0.1, 1, 0.7), (9, 0.1, 0, 0.8), (9, 0.2, 0, 0.4)):
        config = {"loss": {"name": "cdpo", "beta": beta, "epsilon": epsilon}, "seed": seed}
        run_maker(tmp_path / f"{beta}-{epsilon}-{seed}", config=config, results={ACCURACIES: value})
    runs = load_runs(tmp_path)
    (one,) = heat_maps(runs, compare(runs))
    assert (one["rows"], one["columns"]) == ("loss.beta", "loss.epsilon")
    assert (one["y"], one["x"]) == (["9", "10"], ["0.1", "0.2"])
    assert one["z"] == [[0.8, 0.4], [pytest.approx(0.6), None]]
    assert one["runs"] == [[1, 1], [2, 0]]
    assert one["best"] == 0.8
    assert one["over"] == ["seed"]


def test_a_mean_over_more_than_seeds_says_so(tmp_path: Path, run_maker) -> None:
    for number in range(8):
        config = {"loss": {"name": "cdpo", "beta": number % 2, "epsilon": number // 2 % 2}, "model": {"width": number // 4}}
        run_maker(tmp_path / f"{number}", config=config, results={ACCURACIES: number / 10})
    runs = load_runs(tmp_path)
    over = {(one["rows"], one["columns"]): one["over"] for one in heat_maps(runs, compare(runs))}
    assert over["loss.beta", "loss.epsilon"] == ["model.width"]


def test_one_key_makes_no_map(tmp_path: Path, run_maker) -> None:
    for beta in (0.1, 0.5):
        run_maker(tmp_path / f"{beta}", config={"loss": {"name": "dpo", "beta": beta}}, results={ACCURACIES: beta})
    runs = load_runs(tmp_path)
    assert heat_maps(runs, compare(runs)) == []


def test_a_frontier_is_reward_against_kl_by_method_and_strength(tmp_path: Path, run_maker) -> None:
    for name, beta, seed, kl, gold in (
        ("dpo", 0.1, 0, 4.0, 0.5),
        ("dpo", 0.1, 1, 6.0, 0.7),
        ("dpo", 0.5, 0, 1.0, 0.2),
        ("ppo", 0.1, 0, 3.0, 0.6),
    ):
        config = {"loss": {"name": name, "beta": beta}, "seed": seed}
        run_maker(tmp_path / f"{name}-{beta}-{seed}", config=config, results={KL: kl, GOLD: gold})
    run_maker(tmp_path / "none", config={"loss": {"name": "sft", "beta": 0.1}}, results={GOLD: 0.1})
    runs = load_runs(tmp_path)
    points = {(point["method"], point["strength"]): point for point in frontier(runs, compare(runs))}
    assert set(points) == {("dpo", "loss.beta=0.1"), ("dpo", "loss.beta=0.5"), ("ppo", "loss.beta=0.1")}
    both = points["dpo", "loss.beta=0.1"]
    # t(0.975, 1) = 12.706, s / sqrt(2) = 1 and 0.1
    assert both["kl"] == pytest.approx((5.0, 12.706), abs=1e-3)
    assert both["gold"] == pytest.approx((0.6, 1.2706), abs=1e-4)
    assert (both["seeds"], points["ppo", "loss.beta=0.1"]["kl"]) == (2, (3.0, None))


def test_one_point_is_no_frontier(tmp_path: Path, run_maker) -> None:
    run_maker(tmp_path / "a", config={"loss": {"name": "ppo"}}, results={KL: 1.0, GOLD: 0.5})
    runs = load_runs(tmp_path)
    assert frontier(runs, compare(runs)) == []
