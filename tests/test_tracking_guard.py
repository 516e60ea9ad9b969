"""The guard before W&B: nobody waits, nothing is raised, all rows are accounted for. With W&B itself, offline."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb

from alignkit.tracking_guard import Guard, log_of, rows_in, service


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], Any]:
    """Begins a run."""
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr("alignkit.tracking_guard.START_PATIENCE", 120.0)  # on a busy machine W&B takes its time
    quiet = wandb.Settings(silent=True, console="off", x_disable_meta=True, disable_git=True, disable_code=True)
    return lambda: wandb.init(mode="offline", dir=str(tmp_path), settings=quiet)


def log(value: float) -> Callable[[Any], int]:
    def action(tracked: Any) -> int:
        tracked.log({"loss": value})
        return 1

    return action


def test_the_next_run_of_a_process_begins_anew_when_wandbs_has_died(offline, capsys):
    guard = Guard(offline, truth="metrics.jsonl")
    guard.do(log(0.5))
    process = service()
    assert process is not None
    process.kill()
    process.wait()
    guard.do(log(0.25))
    guard.end(0)
    said = capsys.readouterr().out
    assert "W&B has gone" in said
    assert "W&B did not get 2 of 2 rows; metrics.jsonl holds all of them." in said, "what it had been handed died with it"

    guard = Guard(offline, truth="metrics.jsonl")
    guard.do(log(0.125))
    guard.end(0)
    assert capsys.readouterr().out == ""
    file = log_of(guard.run)
    assert file is not None
    assert rows_in(file) == 1


def test_rows_that_wait_for_too_long_are_counted_and_the_end_is_not_waited_for(offline, monkeypatch, capsys):
    monkeypatch.setattr("alignkit.tracking_guard.MOST_WAITING", 3)
    monkeypatch.setattr("alignkit.tracking_guard.FINISH_PATIENCE", 0.2)
    monkeypatch.setattr("alignkit.tracking_guard.DEATH_PATIENCE", 0.2)
    guard, begun, going_on = Guard(offline, truth="metrics.jsonl"), threading.Event(), threading.Event()

    def hang(tracked: Any) -> int:
        begun.set()
        return int(going_on.wait())

    guard.do(hang)
    assert begun.wait(60)
    for value in range(5):
        guard.do(log(value))
    guard.end(0)
    going_on.set()
    assert "W&B did not get 5 of 5 rows" in capsys.readouterr().out


def test_an_error_in_the_start_is_told_and_every_row_counted(capsys):
    def fail() -> Any:
        raise RuntimeError("no service\nhere")

    guard = Guard(fail, truth="results.json")
    for value in range(3):
        guard.do(log(value))
    guard.end(0)
    assert capsys.readouterr().out.splitlines() == [
        "W&B cannot be started (no service here). The run goes on; results.json holds all that is logged.",
        "W&B did not get 3 of 3 rows; results.json holds all of them.",
    ]


def test_a_table_that_fails_keeps_later_tables_back_and_no_numbers(offline, capsys):
    guard = Guard(offline, truth="metrics.jsonl")

    def ask(tracked: Any) -> int:
        raise TimeoutError("the server does not answer")

    for _ in range(2):
        guard.do(ask, asks=True)
        guard.do(log(1.0))
    guard.end(0)
    said = capsys.readouterr().out
    assert said.count("does not take what is logged (the server does not answer)") == 1
    assert "W&B did not get 2 of 4 rows" in said
    file = log_of(guard.run)
    assert file is not None
    assert rows_in(file) == 2
