"""Which runs are policies, what they cost and where they stand: on pipelines and runs written by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from alignkit.analysis.policies import best_of_points, costs, end_points, policies, start_points
from alignkit.analysis.runs import Runs, load_runs
from alignkit.errors import UserError

KL, GOLD = "val/objective/kl", "val/objective/gold"


def measured(kl: float, gold: float, **more: float) -> dict[str, float]:
    return {KL: kl, GOLD: gold, f"start/{KL}": 0.0, f"start/{GOLD}": 0.1, "seconds": 5.0, **more}


@pytest.fixture
def write_pipeline(write_run, tmp_path):
    """`write_pipeline("0", {"sft": {...results}, "ppo": {...}, "best": "0/best"})`: a string is a stage that lies elsewhere."""

    def write(job: str, stages: dict[str, object], *, seed: int = 0, unfinished: str = "") -> None:
        told = []
        for name, results in stages.items():
            directory = f"../{results}" if isinstance(results, str) else name
            if isinstance(results, dict):
                write_run(f"{job}/{name}", {"loss": {"name": name}, "seed": seed}, results=results)
            kept = results if isinstance(results, dict) else {}
            command = "generate" if name == "best" else "train"
            status = "running" if name == unfinished else "done"
            told.append({"stage": name, "command": command, "directory": directory, "status": status, "results": kept})
        Path(tmp_path / job).mkdir(exist_ok=True)
        (tmp_path / job / "pipeline.json").write_text(json.dumps({"pipeline": "p", "overrides": [], "stages": told}))

    return write


def test_the_last_trained_stage_that_measured_kl_is_the_policy(write_pipeline, tmp_path):
    sft, ppo, best = measured(0.5, 0.2), measured(3.0, 0.8), {"seconds": 1.0}
    write_pipeline("a", {"sft": sft, "reward": {"seconds": 2.0}, "ppo": ppo})
    write_pipeline("b", {"sft": "a/sft", "dph": measured(1.0, 0.6), "text": {"seconds": 1.0}, "best": best}, seed=1)
    assert policies(load_runs(tmp_path)).names == ["a/ppo", "b/dph"]


def test_a_stage_before_one_that_still_trains_is_no_policy(write_pipeline, tmp_path):
    write_pipeline("a", {"sft": measured(0.5, 0.2), "ppo": {}}, unfinished="ppo")
    write_pipeline("b", {"dpo": measured(2.0, 0.7)})
    assert policies(load_runs(tmp_path)).names == ["b/dpo"]


def test_heads_on_a_frozen_trunk_are_no_policy(write_run, tmp_path):
    write_run("a", {"loss": {"name": "con_dph"}, "model": {"train": "heads"}, "seed": 0}, results=measured(0.0, 0.1))
    write_run("b", {"loss": {"name": "con_dph"}, "model": {"train": "all"}, "seed": 0}, results=measured(2.0, 0.7))
    assert policies(load_runs(tmp_path)).names == ["b"]


def test_runs_without_kl_are_told_what_to_type(write_run, tmp_path):
    write_run("a", {"loss": {"name": "dpo"}}, results={GOLD: 0.5})
    with pytest.raises(UserError, match=r"validation\.kl=true"):
        policies(load_runs(tmp_path))


def test_costs_are_those_of_all_stages_wherever_they_lie(write_pipeline, tmp_path):
    write_pipeline("a", {"sft": {"seconds": 10.0, "models_held": 1}, "ppo": measured(3.0, 0.8, models_held=3, peak_memory_bytes=7.0)})
    write_pipeline("b", {"sft": "a/sft", "dpo": measured(1.0, 0.6, models_held=1, peak_memory_bytes=9.0), "best": {"seconds": 99.0}})
    told = costs(load_runs(tmp_path))
    assert list(told.index) == ["a/ppo", "b/dpo"]
    assert list(told["seconds"]) == [15.0, 15.0]
    assert list(told["stages"]) == [2, 2]
    assert list(told["models_held"]) == [3, 1]
    assert list(told["peak_memory_bytes"]) == [7.0, 9.0]
    assert list(told["method"]) == ["ppo", "dpo"]


@pytest.fixture
def sweep(write_run, tmp_path) -> Runs:
    """DPO at two betas and two seeds, and one KTO: KL 1 / beta + seed."""
    for beta in (0.1, 0.5):
        for seed in (0, 1):
            results = measured(1 / beta + seed, 0.5 + seed / 10, **{"val/objective/gold_std": 0.4, "data/validation": 64})
            write_run(f"dpo-{beta}-{seed}", {"loss": {"name": "dpo", "beta": beta}, "seed": seed}, results=results)
    write_run("kto-0", {"loss": {"name": "kto", "beta": 0.1}, "seed": 0}, results=measured(4.0, 0.7))
    return load_runs(tmp_path)


def test_points_say_method_strength_and_seed(sweep):
    points = end_points(sweep).set_index("run")
    assert list(points["method"]) == ["dpo"] * 4 + ["kto"]
    assert list(points["strength"]) == ["beta 0.1"] * 2 + ["beta 0.5"] * 2 + [""]
    assert list(points["kl"]) == [10.0, 11.0, 2.0, 3.0, 4.0]
    assert points.loc["dpo-0.1-1", "reward_error"] == pytest.approx(0.4 / 8)  # s / sqrt(64)
    assert math.isnan(points.loc["kto-0", "reward_error"])


def test_each_method_and_seed_starts_once(sweep):
    starts = start_points(sweep)
    assert list(zip(starts["method"], starts["seed"], starts["kl"], starts["reward"], strict=True)) == [
        ("dpo", 0, 0.0, 0.1),
        ("dpo", 1, 0.0, 0.1),
        ("kto", 0, 0.0, 0.1),
    ]


def test_the_best_of_n_stands_at_its_bound(write_run, tmp_path):
    write_run("dpo", {"loss": {"name": "dpo"}, "seed": 0}, results=measured(2.0, 0.6))
    best = {"best_of_1/gold": 0.2, "best_of_1/kl_bound": 0.0, "best_of_4/gold": 0.7, "best_of_4/kl_bound": math.log(4) - 0.75}
    write_run("best", {"loss": {"name": "con_dph"}, "seed": 0}, results=best)
    points = end_points(load_runs(tmp_path))
    ranked = points[points["method"] == "best of N"]
    assert list(ranked["strength"]) == ["N 1", "N 4"]
    assert list(ranked["kl"]) == [0.0, math.log(4) - 0.75]
    assert list(ranked["reward"]) == [0.2, 0.7]
    assert list(points["kl"]) == [2.0, 0.0, math.log(4) - 0.75]


def test_two_ways_of_ranking_are_two_methods_each_in_order_of_n(write_run, tmp_path):
    write_run("dpo", {"loss": {"name": "dpo"}, "seed": 0}, results=measured(2.0, 0.6))
    for name, head in (("one", "dph"), ("two", "reward")):
        best = {f"best_of_{n}/{what}": value for n in (2, 16) for what, value in (("gold", 0.1 * n), ("kl_bound", math.log(n)))}
        write_run(name, {"scorer": {"head": head}, "loss": {"name": "con_dph"}, "seed": 0}, results=best)
    points = end_points(load_runs(tmp_path))
    ranked = points[points["strength"].str.startswith("N ")]
    assert list(zip(ranked["method"], ranked["strength"], strict=True)) == [
        ("head dph", "N 2"),
        ("head dph", "N 16"),
        ("head reward", "N 2"),
        ("head reward", "N 16"),
    ]


def test_samples_of_a_policy_are_not_at_the_bound(write_run, tmp_path):
    policy = write_run("dph", {"loss": {"name": "con_dph"}, "seed": 0}, results=measured(2.0, 0.6))
    best = {"best_of_4/gold": 0.7, "best_of_4/kl_bound": math.log(4) - 0.75}
    write_run("best", {"model": {"path": f"{policy.path}/model"}, "seed": 0}, results=best)
    runs = load_runs(tmp_path)
    assert list(end_points(runs)["run"]) == ["dph"]
    assert list(best_of_points(runs)["reward"]) == [0.7]


def test_pipelines_that_end_with_one_loss_are_two_methods(write_run, tmp_path):
    for job, pipeline in (("a", "rlhf"), ("b", "reinforced_dpo")):
        write_run(f"{job}/ppo", {"loss": {"name": "ppo"}, "seed": 0}, results=measured(1.0, 0.5))
        told = {"pipeline": pipeline, "overrides": [], "stages": [{"stage": "ppo", "directory": "ppo", "status": "done"}]}
        (tmp_path / job / "pipeline.json").write_text(json.dumps(told))
    assert list(end_points(load_runs(tmp_path))["method"]) == ["ppo of rlhf", "ppo of reinforced_dpo"]
