"""Sweeps of jobs that each have two processes, under every launcher and sweeper: one directory a job, and ranks that agree.

Training is a stand-in, as in `test_launch.py`; one sweep trains.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alignkit.run_dir import read_jsonl

TWO = ("hardware=ddp", "hardware.accelerator=cpu", "loss=dpo")
STAND_IN = str(Path(__file__).parent / "stand_in")
PACKAGE = str(Path(__file__).parents[2])
KINDS = {
    "basic": ["loss.beta=0.1,0.2"],
    "joblib": ["loss.beta=0.1,0.2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit": ["loss.beta=0.1,0.2", "hydra/launcher=submitit_local"],
    "optuna": ["loss.beta=tag(log,interval(0.01,1))", "hydra/sweeper=optuna_study", "hydra.sweeper.trials=2"],
    "optuna in joblib": [
        "loss.beta=interval(0.01,1)",
        "hydra/sweeper=optuna_study",
        "hydra.sweeper.trials=2",
        "hydra.sweeper.parallel=2",
        "hydra/launcher=joblib",
    ],
}


def sweep(folder: Path, *typed: str, path: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    arguments = [sys.executable, "-m", "alignkit.train", "-m", *typed]
    return subprocess.run(arguments, cwd=folder, env=environ, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind in ("basic", "optuna in joblib") else [pytest.mark.slow], id=kind) for kind in KINDS]
)
def test_every_rank_of_every_job_agrees_in_one_directory(kind: str, tmp_path: Path) -> None:
    done = sweep(tmp_path, *TWO, *KINDS[kind], path=os.pathsep.join([STAND_IN, PACKAGE]))
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("runs/*/*")
    assert list(tmp_path.iterdir()) == [tmp_path / "runs"]
    jobs = json.loads((folder / "sweep.json").read_text())
    assert sorted(path.parent.name for path in folder.glob("*/config.yaml")) == [job["run"] for job in jobs]
    assert len(jobs) == 2
    for job in jobs:
        told = json.loads((folder / job["run"] / "results.json").read_text())
        (typed,) = job["overrides"]
        assert told["agreed"] is True
        assert str([str(folder / job["run"]), float(typed.partition("=")[2]), 0, True]) in told["told"]
        assert "rank 0 trains" in (folder / job["run"] / "log.txt").read_text()
        assert "rank 1 trains" in (folder / job["run"] / "ranks" / "1.log").read_text()
    lines = done.stdout.splitlines()
    assert sum(line.endswith(": started") for line in lines) == 2
    assert sum(": done in 1.5 s, val/rewards/accuracies " in line for line in lines) == 2
    assert lines[-1] == f"run: {folder}"


@pytest.mark.slow  # its twins: the jobs above, and a run of two processes
def test_a_sweep_of_two_processes_a_job_trains_and_has_one_wandb_run_a_job(tmp_path: Path) -> None:
    short = ["steps=2", "schedule.warmup_steps=0", "validation.every=2", "validation.samples=0", "logger.every=1", "dataset.pairs=40"]
    short += ["dataset.validation_examples=12", "batch.pairs=8", "callbacks.progress_bar=false", "callbacks.checkpoints=false"]
    done = sweep(tmp_path, *TWO, *short, "loss.beta=0.1,0.2", "run_dir=grid", path=PACKAGE)
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = json.loads((tmp_path / "grid" / "sweep.json").read_text())
    assert [job["status"] for job in jobs] == ["done", "done"]
    for job in jobs:
        run = tmp_path / "grid" / job["run"]
        assert len(list((run / "wandb").glob("offline-run-*"))) == 1
        assert job["results"]["start/val/loss"] == pytest.approx(0.6931471805599453, abs=1e-6)
        assert [row["step"] for row in read_jsonl(run / "metrics.jsonl") if "train/loss" in row] == [1, 2]
    assert jobs[0]["results"]["val/loss"] != jobs[1]["results"]["val/loss"]
