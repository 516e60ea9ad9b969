"""Caches between processes: a sweep, two terminals at once, a run that was killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alignkit.run_dir import RunDir, read_jsonl

SHORT = [
    "loss=dpo",
    "steps=3",
    "schedule.warmup_steps=1",
    "validation.every=3",
    "validation.samples=0",
    "logger=jsonl",
    "logger.every=1",
    "dataset.pairs=40",
    "dataset.validation_examples=12",
    "batch.pairs=8",
    "callbacks.progress_bar=false",
    "callbacks.checkpoints=false",
    "hardware.threads=1",
]
VISITED = 3 * 8 + 12


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"ALIGNKIT_CACHE": str(tmp_path / "cache")}


def start(folder: Path, environment: dict[str, str], *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "alignkit.train", *SHORT, *overrides]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def results(folder: Path) -> dict[str, float]:
    read: dict[str, float] = json.loads((folder / "results.json").read_text())
    return read


def test_a_sweep_computes_the_log_probs_once_and_a_later_run_not_at_all(tmp_path: Path, environment: dict[str, str]) -> None:
    sweep = start(tmp_path, environment, "-m", "loss.beta=0.1,0.5", "optimizer.lr=1e-4,1e-3", "run_dir=grid")
    output, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, output
    jobs = [tmp_path / "grid" / job["run"] for job in json.loads((tmp_path / "grid" / "sweep.json").read_text())]
    assert [results(job)["reference/computed"] for job in jobs] == [VISITED, 0, 0, 0]
    assert [results(job)["reference/reused"] for job in jobs] == [0, VISITED, VISITED, VISITED]
    assert output.count(f"reference: {VISITED} of {VISITED} log-probs reused from {tmp_path / 'cache'}") == 3
    later = start(tmp_path, environment, "loss=ipo", "run_dir=later")
    output, _ = later.communicate(timeout=300)
    assert later.returncode == 0, output
    assert results(tmp_path / "later")["reference/computed"] == 0


def test_a_sweep_over_losses_shares_one_cache(tmp_path: Path, environment: dict[str, str]) -> None:
    losses = ("dpo", "cdpo", "ipo_avg", "kto", "simpo", "con_dph")
    sweep = start(tmp_path, environment, "-m", f"loss={','.join(losses)}", "run_dir=grid")
    output, _ = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, output
    jobs = json.loads((tmp_path / "grid" / "sweep.json").read_text())
    assert [job["status"] for job in jobs] == ["done"] * 6
    runs = {loss: results(tmp_path / "grid" / job["run"]) for loss, job in zip(losses, jobs, strict=True)}
    # kto's level needs each prompt of the three steps with another completion; simpo has no reference
    computed = {loss: run["reference/computed"] for loss, run in runs.items() if loss != "simpo"}
    assert computed == {"dpo": VISITED, "cdpo": 0, "ipo_avg": 0, "kto": 3 * 8, "con_dph": 0}
    assert "reference/computed" not in runs["simpo"]
    assert len({run["reference_fingerprint"] for run in runs.values()} - {None}) == 1


def test_two_processes_at_once_compute_once_and_train_on_the_same_numbers(tmp_path: Path, environment: dict[str, str]) -> None:
    processes = [start(tmp_path, environment, f"run_dir={name}") for name in ("a", "b")]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    counts = sorted(results(tmp_path / name)["reference/computed"] for name in ("a", "b"))
    assert counts == [0, VISITED]
    a, b = ([row["train/loss"] for row in read_jsonl(RunDir(tmp_path / name).metrics) if "train/loss" in row] for name in ("a", "b"))
    assert a == b


KILLED = """
import os, signal, sys, time
from alignkit.caches import filling
from alignkit.caches.store import Store

filling.SEGMENT_SECONDS = 0.0
write = Store.write
written = []

def kill_third(self, values):
    if len(written) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    written.append(write(self, values))
    return written[-1]

Store.write = kill_third
from alignkit.train import main
sys.exit(main())
"""


def test_a_run_that_is_killed_while_computing_leaves_what_it_had(tmp_path: Path, environment: dict[str, str]) -> None:
    small = ["batch.tokens=64"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *SHORT, *small, "run_dir=killed"], cwd=tmp_path, env=environment, check=False)
    assert killed.returncode == -9
    again = start(tmp_path, environment, *small, "run_dir=again")
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert "waiting" not in output
    measured = results(tmp_path / "again")
    assert measured["reference/reused"] > 0
    assert measured["reference/reused"] + measured["reference/computed"] == VISITED
