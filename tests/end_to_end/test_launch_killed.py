"""One of two training processes is killed: the run ends with that rank named, and goes on from its checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from alignkit.run_dir import RunDir, read_jsonl

SETTINGS = ["hardware=ddp", "hardware.accelerator=cpu", "loss=dpo", "logger=jsonl", "logger.every=1", "validation.every=2"]
SETTINGS += ["validation.samples=0", "dataset.pairs=40", "dataset.validation_examples=12", "batch.pairs=8", "schedule.warmup_steps=1"]
SETTINGS += ["callbacks.progress_bar=false"]


def start(folder: Path, *typed: str) -> subprocess.Popen[str]:
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "alignkit.train", *typed]
    return subprocess.Popen(arguments, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def losses(run: RunDir) -> dict[int, float]:
    return {int(row["step"]): float(row["train/loss"]) for row in read_jsonl(run.metrics) if "train/loss" in row}


def test_a_killed_rank_ends_the_run_which_goes_on_to_the_same_numbers(tmp_path: Path) -> None:
    steps = 30
    run = RunDir(tmp_path / "killed")
    process = start(tmp_path, *SETTINGS, f"steps={steps}", "run_dir=killed")
    while not run.last_checkpoint.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    killed = time.monotonic()
    os.kill(int((run.path / "ranks" / "1.pid").read_text()), signal.SIGKILL)
    out, error = process.communicate(timeout=60)
    assert time.monotonic() - killed < 60
    assert process.returncode == 1
    last = error.rstrip().splitlines()[-1]
    assert last.startswith("rank 1 of 2: killed by SIGKILL"), error
    assert last.endswith(f"Go on with: python -m alignkit.train resume={run.path}")
    assert out.rstrip().endswith(f"run: {run.path}")
    assert not run.results.exists()
    before = losses(run)

    resumed = start(tmp_path, f"resume={run.path}")
    out, error = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, out + error
    after = losses(run)
    assert sorted(after) == list(range(1, steps + 1))
    again = [step for step in before if step > 2]
    assert all(after[step] == before[step] for step in again)
