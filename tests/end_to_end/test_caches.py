"""Caches between processes: a sweep, two terminals at once, a run that was killed."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
Order = Callable[..., dict[str, Any]]


@pytest.fixture
def order(tmp_path: Path, commands: Any) -> Order:
    """A command in an empty folder with a cache of its own, that prints to `log.txt`."""
    environment = {"ALIGNKIT_CACHE": str(tmp_path / "cache")}

    def make(*overrides: str, **more: Any) -> dict[str, Any]:
        order: dict[str, Any] = commands.order(
            *SHORT, *overrides, log=tmp_path / "log.txt", folder=tmp_path, environment=environment, **more
        )
        return order

    return make


def results(folder: Path) -> dict[str, float]:
    read: dict[str, float] = json.loads((folder / "results.json").read_text())
    return read


def test_a_sweep_computes_the_log_probs_once_and_a_later_run_not_at_all(tmp_path: Path, commands: Any, order: Order) -> None:
    codes = commands.together(order("-m", "loss.beta=0.1,0.5", "optimizer.lr=1e-4,1e-3", "run_dir=grid"))
    output = (tmp_path / "log.txt").read_text()
    assert codes == [0], output
    jobs = [tmp_path / "grid" / job["run"] for job in json.loads((tmp_path / "grid" / "sweep.json").read_text())]
    assert [results(job)["reference/computed"] for job in jobs] == [VISITED, 0, 0, 0]
    assert [results(job)["reference/reused"] for job in jobs] == [0, VISITED, VISITED, VISITED]
    reused = f"reference: {VISITED} of {VISITED} log-probs reused from {tmp_path / 'cache'}"
    assert [reused in (job / "log.txt").read_text() for job in jobs] == [False, True, True, True]
    assert commands.together(order("loss=ipo", "run_dir=later")) == [0], (tmp_path / "log.txt").read_text()
    assert results(tmp_path / "later")["reference/computed"] == 0


def test_a_sweep_over_losses_shares_one_cache(tmp_path: Path, commands: Any, order: Order) -> None:
    losses = ("dpo", "cdpo", "ipo_avg", "kto", "simpo", "con_dph")
    assert commands.together(order("-m", f"loss={','.join(losses)}", "run_dir=grid")) == [0], (tmp_path / "log.txt").read_text()
    jobs = json.loads((tmp_path / "grid" / "sweep.json").read_text())
    assert [job["status"] for job in jobs] == ["done"] * 6
    runs = {loss: results(tmp_path / "grid" / job["run"]) for loss, job in zip(losses, jobs, strict=True)}
    # kto's level needs each prompt of the three steps with another completion; simpo has no reference
    computed = {loss: run["reference/computed"] for loss, run in runs.items() if loss != "simpo"}
    assert computed == {"dpo": VISITED, "cdpo": 0, "ipo_avg": 0, "kto": 3 * 8, "con_dph": 0}
    assert "reference/computed" not in runs["simpo"]
    assert len({run["reference_fingerprint"] for run in runs.values()} - {None}) == 1


def test_two_processes_at_once_compute_once_and_train_on_the_same_numbers(tmp_path: Path, commands: Any, order: Order) -> None:
    codes = commands.together(*(order(f"run_dir={name}") for name in ("a", "b")))
    assert codes == [0, 0], (tmp_path / "log.txt").read_text()
    counts = sorted(results(tmp_path / name)["reference/computed"] for name in ("a", "b"))
    assert counts == [0, VISITED]
    a, b = ([row["train/loss"] for row in read_jsonl(RunDir(tmp_path / name).metrics) if "train/loss" in row] for name in ("a", "b"))
    assert a == b


def test_a_run_that_is_killed_while_computing_leaves_what_it_had(tmp_path: Path, commands: Any, order: Order) -> None:
    small = ["batch.tokens=64"]
    third = {"signal": signal.SIGKILL, "at": "alignkit.caches.store:Store.write", "call": 3}
    every_batch = {"alignkit.caches.filling:SEGMENT_SECONDS": 0.0}
    assert commands.together(order(*small, "run_dir=killed", constants=every_batch, **third)) == [-signal.SIGKILL]
    assert commands.together(order(*small, "run_dir=again")) == [0], (tmp_path / "log.txt").read_text()
    assert "waiting" not in (tmp_path / "log.txt").read_text()
    measured = results(tmp_path / "again")
    assert measured["reference/reused"] > 0
    assert measured["reference/reused"] + measured["reference/computed"] == VISITED
