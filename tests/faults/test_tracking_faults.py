"""W&B dead, slow or out of reach: the run is the one without it, nothing waits for ever, and it is told what W&B did not get."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from equal_runs import rows
from undisturbed import LOGGED, ROW, ROWS, SHORT
from wandb_server import serving

from alignkit.analysis.wandb_offline import GLOBAL_STEP, items, records, row_keys, wandb_files
from alignkit.run_dir import RunDir

QUICK = {"alignkit.tracking:INIT_TIMEOUT": 2.0, "alignkit.tracking_guard:START_PATIENCE": 60.0}
Commands = Callable[..., int]


@pytest.fixture
def track(commands: Commands, tmp_path: Path, undisturbed: RunDir) -> Callable[..., str]:
    """Runs what `undisturbed` is, with W&B, checks that it is the same, and returns what it said."""

    def run(**order: Any) -> str:
        log = tmp_path / "log.txt"
        code = commands(*SHORT, "logger=wandb", f"run_dir={tmp_path / 'run'}", log=log, **order)
        said = log.read_text()
        assert code == 0, said
        assert "Traceback" not in said
        assert rows(RunDir(tmp_path / "run")) == rows(undisturbed)
        assert len(rows(undisturbed)) == ROWS
        return said

    return run


def stored(folder: Path) -> int:
    """How many rows W&B's files hold."""
    return sum(record.WhichOneof("record_type") == "history" for file in wandb_files(folder / "run" / "wandb") for record in records(file))


def test_a_server_that_does_not_answer_at_the_start_means_offline_with_the_command_that_sends_it_later(track, tmp_path):
    with serving("silence") as server:
        said = track(environment=server.environment, constants=QUICK)
    assert said.count("W&B cannot be reached") == 1
    assert f"wandb sync {tmp_path / 'run' / 'wandb'}/offline-run-*" in said
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))) == 1
    assert stored(tmp_path) == LOGGED


def test_a_server_that_falls_silent_in_mid_run_holds_up_nothing(track, tmp_path):
    patience = {"alignkit.tracking:FINISH_TIMEOUT": 3600.0, "alignkit.tracking_guard:FINISH_PATIENCE": 2.0}
    with serving("silence", later=True) as server:
        said = track(environment=server.environment, constants={**QUICK, **patience})
        assert server.has_begun, "it was never sent a row"
    assert f"W&B did not get {LOGGED - stored(tmp_path)} of {LOGGED} rows; metrics.jsonl holds all of them." in said


@pytest.mark.slow  # its twin: a server that falls silent
def test_what_a_server_that_fails_in_mid_run_lacks_can_be_sent_later(track, tmp_path):
    with serving("errors", later=True) as server:
        said = track(environment=server.environment, constants={**QUICK, "alignkit.tracking:FINISH_TIMEOUT": 1.0})
        assert server.has_begun, "it was never sent a row"
    (folder,) = (tmp_path / "run" / "wandb").glob("run-*-*")
    assert f"wandb sync {folder}" in said
    assert stored(tmp_path) == ROWS, "tables alone need the server"


def test_the_death_of_wandbs_process_ends_nothing_and_is_counted(track, tmp_path):
    said = track(environment={"WANDB_MODE": "offline"}, constants=QUICK, signal=signal.SIGKILL, child="wandb-core", at=ROW, call=7)
    assert said.count("W&B has gone") == 1
    lost = LOGGED - stored(tmp_path)
    assert lost >= 4, "what was logged after it died cannot be there"
    assert f"W&B did not get {lost} of {LOGGED} rows; metrics.jsonl holds all of them." in said


def test_a_full_disk_under_wandbs_folder_ends_nothing_and_is_counted(track, tmp_path):
    folder = tmp_path / "run" / "wandb"
    folder.mkdir(parents=True)
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)], capture_output=True, text=True, check=False)
    if mount.returncode != 0:
        pytest.skip(f"this user may mount nothing: {mount.stderr.strip()}")
    try:
        (folder / "filling").write_bytes(bytes(96 * 1024))
        said = track(environment={"WANDB_MODE": "offline"}, constants=QUICK)
        lost = LOGGED - stored(tmp_path)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # W&B's process may have a file there for a moment
    assert lost > 0, "the disk was not full"
    assert f"W&B did not get {lost} of {LOGGED} rows; metrics.jsonl holds all of them." in said


def test_a_run_that_is_killed_and_resumed_is_one_wandb_run_in_which_no_step_comes_twice(commands, undisturbed, tmp_path):
    log, run = tmp_path / "log.txt", RunDir(tmp_path / "run")
    environment = {"WANDB_MODE": "offline"}
    # between the row of step 6 and its validation, two steps after the newest checkpoint
    order = {"log": log, "environment": environment, "constants": QUICK}
    assert commands(*SHORT, f"run_dir={run.path}", signal=signal.SIGKILL, at=ROW, call=10, **order) == -signal.SIGKILL
    assert commands(f"resume={run.path}", **order) == 0, log.read_text()
    files = wandb_files(run.path / "wandb")
    assert len(files) == 2
    assert len({file.name for file in files}) == 1, "two runs of W&B"
    steps = [items(row.history.item)[GLOBAL_STEP] for file in files for row in records(file) if row.WhichOneof("record_type") == "history"]
    assert steps == sorted(steps)
    assert len(steps) == len(set().union(*map(row_keys, files))), "a row is there twice"
    tables = LOGGED - ROWS  # of which W&B's process takes the newest with it
    assert ROWS + 1 <= len(steps) <= ROWS + tables
    assert rows(run) == rows(undisturbed)
