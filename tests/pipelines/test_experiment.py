"""Experiments of pipelines: the sweep that one stands for, and the table of what its jobs cost."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignkit.errors import UserError
from alignkit.pipelines.costs import Job, costs_table, measure, samples_to_target, write_costs
from alignkit.pipelines.experiment import Experiment, pipeline_experiments, read_experiment, unfold
from alignkit.run_dir import RunDir


def typed(*overrides: str, config_dir: str | None = None) -> Namespace:
    return Namespace(overrides=list(overrides), config_dir=config_dir, multirun=False)


def test_an_experiment_is_its_sweep_and_what_is_typed_counts_more():
    flags, experiment = unfold(typed("experiment=cost_of_alignment", "seed=5", "model=gpt2"))
    assert isinstance(experiment, Experiment)
    assert flags.multirun
    assert "pipeline=rlhf,dpo,dph" in flags.overrides
    assert flags.overrides[-2:] == ["seed=5", "model=gpt2"]
    assert [line for line in flags.overrides if line.startswith(("seed=", "experiment="))] == ["seed=5"]


@pytest.mark.parametrize("overrides", [["pipeline=dpo"], ["pipeline=dpo", "experiment=loss_grid"]])
def test_other_commands_stay_as_they_are(overrides):
    flags = typed(*overrides)
    assert unfold(flags) == (flags, None)


def test_an_experiment_of_ones_own_lies_in_a_config_dir(tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "mine.yaml").write_text("target: 1\nsweep: [pipeline=dpo, 'seed=0,1']\n")
    flags, experiment = unfold(typed("experiment=mine", config_dir=str(tmp_path)))
    assert flags.overrides == ["pipeline=dpo", "seed=0,1"]
    assert experiment == Experiment(name="mine", target=1.0, sweep=("pipeline=dpo", "seed=0,1"))
    assert set(pipeline_experiments(str(tmp_path))) == {"mine", "cost_of_alignment"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("target: 1\nsweep: pipeline=dpo\n", "must be a list of overrides"),
        ("target: high\nsweep: [pipeline=dpo]\n", "target = 'high'; must be a number"),
        ("targt: 1\nsweep: [pipeline=dpo]\n", "targt: no such key"),
    ],
)
def test_a_file_that_is_none_is_refused(text, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read_experiment(file)


def stage(folder: Path, command: str, results: dict[str, Any], gold: list[tuple[int, float]] = [], rate: float = 1e-3) -> Any:  # noqa: B006
    """A finished stage, as far as its costs are read."""
    folder.mkdir()
    run = RunDir(folder)
    for step, value in gold:
        run.append_metrics({"val/objective/gold": value}, step=step, epoch=0.0)
    settings = SimpleNamespace(run=SimpleNamespace(seed=3, optimizer=SimpleNamespace(lr=rate)))
    return SimpleNamespace(stage=SimpleNamespace(command=command), settings=settings, run=run, results=results)


@pytest.fixture
def placed(tmp_path) -> Any:
    sft = stage(tmp_path / "sft", "train", {"seconds": 10.0, "peak_memory_bytes": 5 * 2**30, "models_held": 1, "steps": 9})
    dph = stage(
        tmp_path / "dph",
        "train",
        {
            "seconds": 20.0,
            "peak_memory_bytes": 3 * 2**30,
            "models_held": 2,
            "steps": 40,
            "completions": 1280,
            "start/val/objective/gold": 0.1,
            "val/objective/gold": 0.7,
        },
        gold=[(0, 0.1), (10, 0.4), (20, 0.65), (40, 0.7)],
    )
    best = stage(tmp_path / "best", "generate", {"seconds": 5.0, "best_of_1/gold": 0.7, "best_of_4/gold": 0.8, "best_of_4/score": 9.0})
    return SimpleNamespace(pipeline=SimpleNamespace(name="dph"), stages=(sft, dph, best))


def test_a_pipeline_costs_all_of_its_stages_and_reaches_what_its_last_training_does(placed):
    job = measure(placed, target=0.6)
    assert (job.pipeline, job.seed, job.rate, job.stages) == ("dph", 3, 1e-3, 3)
    assert (job.seconds, job.peak_memory_bytes, job.models_held) == (35.0, 5 * 2**30, 2)
    assert (job.gold_start, job.gold_end) == (0.1, 0.7)
    assert job.best_of == {"1": 0.7, "4": 0.8}


@pytest.mark.parametrize(("target", "samples"), [(0.05, 0), (0.4, 320), (0.6, 640), (0.7, 1280), (0.9, None)])
def test_samples_are_counted_up_to_the_first_validation_that_shows_the_target(target, samples, placed):
    assert samples_to_target(placed.stages[1], placed.stages[1].results, target) == samples


def test_the_table_has_means_and_all_seeds(tmp_path):
    common = {"pipeline": "dpo", "rate": 1e-3, "stages": 2, "peak_memory_bytes": 2**30, "models_held": 1, "gold_start": 0.2}
    jobs = [
        Job(seed=seed, seconds=10.0 * seed, gold_end=gold, samples_to_target=n, **common)
        for seed, gold, n in ((1, 0.5, 64), (3, 0.7, None))
    ]
    table = costs_table(jobs, 0.6)
    (row,) = zip(*[[str(cell) for cell in column.cells] for column in table.columns], strict=True)
    assert row[:6] == ("dpo", "0.001", "2", "1", "20", "1.00 GiB")
    assert row[7:9] == ("0.60 (0.50, 0.70)", "64, never")
    write_costs(tmp_path, jobs, 0.6)
    told = json.loads((tmp_path / "costs.json").read_text())
    assert (told["target"], [job["gold_end"] for job in told["jobs"]]) == (0.6, [0.5, 0.7])
