"""Runs whose checkpoints are damaged, whose disk is full, whose steps fail, whose job is put back into the queue: nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from alignkit.manifests import manifest_of, newest_intact, step_checkpoints, step_name
from alignkit.run_dir import RunDir

sys.path.append(str(Path(__file__).parents[1] / "end_to_end"))  # what tests share is a module of their folder

from equal_runs import check_equal, rows

SHORT = (
    *(
        "loss=con_dph",
        "loss.head.dropout=0.3",
        "steps=6",
        "validation.every=2",
        "validation.samples=1",
        "validation.sample_tokens=3",
        "logger=jsonl",
        "logger.every=1",
    ),
    *("hardware.threads=1", "batch.pairs=2", "dataset.pairs=12", "dataset.validation_examples=2", "schedule.warmup_steps=1"),
    "callbacks.progress_bar=false",
)
ROW = "alignkit.run_dir:RunDir.append_metrics"
GRADIENTS = "alignkit.modules.stepping:SteppingModule.clip_gradients_by_norm"
UPDATED = "alignkit.modules.alignment:AlignmentModule._log_training"
Commands = Callable[..., int]


@pytest.fixture(scope="module")
def straight(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("straight")
    assert commands(*SHORT, f"run_dir={folder / 'run'}", log=folder / "log.txt") == 0
    return RunDir(folder / "run")


@pytest.fixture(scope="module")
def killed(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """One that was killed after step 5, with the checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("killed")
    code = commands(*SHORT, f"run_dir={folder / 'run'}", log=folder / "log.txt", signal=signal.SIGKILL, at=ROW, call=8)
    assert code == -signal.SIGKILL
    run = RunDir(folder / "run")
    assert [path.name for path in step_checkpoints(run.checkpoints)] == [step_name(4), step_name(2)]
    return run


@pytest.fixture
def run(killed: RunDir, tmp_path: Path) -> RunDir:
    """A copy of it."""
    return RunDir(Path(shutil.copytree(killed.path, tmp_path / "run", symlinks=True)))


def flip(path: Path) -> None:
    """One bit inside the weights, which libraries load without a word."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_is_noticed_and_the_checkpoint_before_it_leads_to_the_same_end(run, commands, straight, tmp_path):
    log = tmp_path / "log.txt"
    flip(run.checkpoints / step_name(4))
    torch.load(run.checkpoints / step_name(4), weights_only=True)
    assert commands(f"resume={run.path}", log=log) == 0, log.read_text()
    assert "resume: step-000004.ckpt has another checksum than when it was written; it is left out" in log.read_text()
    assert "resume: from step 2" in log.read_text()
    check_equal(run, straight)


def test_where_no_checkpoint_is_whole_nothing_is_trained(run, commands, tmp_path):
    log, before = tmp_path / "log.txt", run.metrics.read_bytes()
    flip(run.checkpoints / step_name(4))
    manifest_of(run.checkpoints / step_name(2)).unlink()
    assert commands(f"resume={run.path}", log=log) == 2
    (line,) = [line for line in log.read_text().splitlines() if line.startswith("resume = ")]
    assert "no checkpoint is whole: step-000004.ckpt has another checksum" in line
    assert "step-000002.ckpt was not written to its end" in line
    assert run.metrics.read_bytes() == before
    assert "Traceback" not in log.read_text()


def test_a_full_disk_costs_checkpoints_then_the_end_and_nothing_that_was_saved(commands, straight, tmp_path):
    log, run = tmp_path / "log.txt", RunDir(tmp_path / "run")
    # A checkpoint has 23 MB, the model 6: first the one, then the other does not fit.
    assert commands(*SHORT, f"run_dir={run.path}", log=log, signal=signal.SIGTERM, at=ROW, call=5) == 143  # step 3
    assert newest_intact(run.checkpoints)[0] == run.checkpoints / step_name(3)
    shutil.rmtree(run.model)
    assert commands(f"resume={run.path}", log=log, largest=2 * 2**20) == 3
    said = log.read_text()
    assert said.count("could not be written (File too large; ") == 1, said
    assert "step-000004.ckpt could not be written" in said
    assert "That of step 3 is kept; training goes on, and it is tried again." in said
    assert f"run_dir = {run.path}: after step 6 " in said
    assert f"Its newest checkpoint is older: make room, then go on with: python -m alignkit.train resume={run.path}" in said
    assert "Traceback" not in said
    assert [path.name for path in step_checkpoints(run.checkpoints)] == [step_name(3), step_name(2)]
    assert commands(f"resume={run.path}", log=log) == 0, log.read_text()
    check_equal(run, straight)


@pytest.mark.parametrize(
    ("error", "at", "saved"),
    [
        ("RuntimeError", GRADIENTS, 3),
        ("MemoryError", GRADIENTS, 3),
        ("SystemExit", GRADIENTS, 2),  # as at a second Ctrl-C: at once
        ("RuntimeError", UPDATED, 2),  # the weights are those of step 4, what is logged of it is lost
    ],
)
def test_a_step_that_fails_before_it_changes_weights_is_undone_and_saved(error, at, saved, commands, straight, tmp_path):
    log, run = tmp_path / "log.txt", RunDir(tmp_path / "run")
    code = commands(*SHORT, f"run_dir={run.path}", log=log, error=error, at=at, call=4)
    assert code == 1, log.read_text()
    assert newest_intact(run.checkpoints)[0] == run.checkpoints / step_name(saved)
    if error != "MemoryError":
        assert commands(f"resume={run.path}", log=log) == 0, log.read_text()
        check_equal(run, straight)


def test_a_job_that_slurm_warns_is_put_back_into_the_queue_and_goes_on_by_itself(commands, straight, tmp_path):
    asked, stub = tmp_path / "asked.txt", tmp_path / "bin" / "scontrol"
    stub.parent.mkdir()
    stub.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    stub.chmod(stub.stat().st_mode | stat.S_IXUSR)
    log, run = tmp_path / "log.txt", RunDir(tmp_path / "run")
    environment = {
        **{"SLURM_JOB_ID": "42", "SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "2", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train"},
        **{"PATH": f"{stub.parent}:{os.environ['PATH']}", "ALIGNKIT_CACHE": str(tmp_path / "cache")},
    }
    argv = (*SHORT, f"run_dir={run.path}")
    (tmp_path / "ckpt_final.ckpt").write_text("")  # which Lightning's own handler would stumble over
    assert commands(*argv, log=log, environment=environment, signal=signal.SIGUSR1, at=ROW, call=5) == 143, log.read_text()
    assert asked.read_text() == "requeue 40_2\n"
    assert "Job 40_2 is requeued, and goes on from here." in log.read_text()
    assert newest_intact(run.checkpoints)[0] == run.checkpoints / step_name(3)
    environment["SLURM_RESTART_COUNT"] = "1"
    assert commands(*argv, log=log, environment=environment) == 0, log.read_text()
    assert f"slurm: this job has begun {run.path} before it was restarted, and goes on with it" in log.read_text()
    check_equal(run, straight)
    assert asked.read_text() == "requeue 40_2\n"


def test_a_job_that_cannot_be_put_back_keeps_its_state_and_says_so(commands, tmp_path):
    log, run = tmp_path / "log.txt", RunDir(tmp_path / "run")
    environment = {"SLURM_JOB_ID": "42", "PATH": str(tmp_path), "ALIGNKIT_CACHE": str(tmp_path / "cache")}
    code = commands(*SHORT, f"run_dir={run.path}", log=log, environment=environment, signal=signal.SIGUSR1, at=ROW, call=3)
    assert code == 143
    assert "Job 42 could not be requeued ([Errno 2] No such file or directory: 'scontrol')." in log.read_text()
    assert f"Go on with: python -m alignkit.train resume={run.path}" in log.read_text()
    assert newest_intact(run.checkpoints)[0] is not None


def test_more_steps_lead_to_where_a_longer_run_leads(commands, tmp_path):
    log, ways = tmp_path / "log.txt", {}
    argv = (*SHORT, "schedule=constant", "callbacks.background_checkpoints=true")
    for name, steps in (("longer", 8), ("extended", 6)):
        run = ways[name] = RunDir(tmp_path / name)
        assert commands(*argv, f"steps={steps}", f"run_dir={run.path}", log=log) == 0, log.read_text()
    assert commands(f"resume={run.path}", "steps=8", "logger.every=1", log=log) == 0, log.read_text()
    assert json.loads(run.results.read_text())["steps"] == 8
    assert rows(ways["extended"]) == rows(ways["longer"])
    for file in ("model/model.safetensors", "heads.safetensors"):
        assert (ways["extended"].path / file).read_bytes() == (ways["longer"].path / file).read_bytes()
