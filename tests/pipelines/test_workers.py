"""Stages in processes of their own: what passes between them and the command, and what becomes of those that die."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from alignkit.pipelines.schedule import Schedule
from alignkit.pipelines.workers import run_here, run_in_workers
from alignkit.sweeping.sweep import JobRecord

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder
from stand_in_stages import pipeline, runs_of


def schedule_of(folder: Path, *stages: list[Path | str]) -> Schedule:
    """One job each, in directories 0, 1, ..."""
    placed = [pipeline(folder / str(number), *own) for number, own in enumerate(stages)]
    return Schedule(placed, [JobRecord(job=number, overrides=[], run=str(number)) for number in range(len(stages))], folder)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user's shell has it."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.usefixtures("one_thread")
def test_jobs_are_run_by_workers_that_stay_and_a_failure_or_a_death_is_its_own_jobs(tmp_path: Path) -> None:
    shared = tmp_path / "0" / "sft"
    jobs: list[list[Path | str]] = [["sft", "dpo"], [shared, "die_early"], [shared, "fail_late"], ["wrong"], ["kto"], ["ipo"]]
    schedule = schedule_of(tmp_path, *jobs)
    assert run_in_workers(schedule, 2, group="g", debug=False) is None
    assert [job.status for job in schedule.jobs] == ["done", "failed", "failed", "failed", "done", "done"]
    assert "killed by SIGKILL" in schedule.jobs[1].message
    assert (schedule.jobs[2].message, schedule.jobs[3].exit_code) == ("RuntimeError: a bug", 2)
    assert len(runs_of(shared)) == 1
    told = [runs_of(file.parent)[0].split() for file in tmp_path.glob("*/*/begun")]
    assert {threads for _, threads in told} == {"1"}
    assert str(os.getpid()) not in {process for process, _ in told}
    # Two workers, and one in the place of that which died unless the other one came for the rest.
    assert 2 <= len({process for process, _ in told}) <= 3
    log = (tmp_path / "2" / "log.txt").read_text()
    assert "this is fail_late" in log
    assert "RuntimeError: a bug" in log


@pytest.mark.usefixtures("one_thread")
def test_a_worker_that_died_is_replaced(tmp_path: Path) -> None:
    schedule = schedule_of(tmp_path, ["die_early"], ["kto"], ["ipo"])
    assert run_in_workers(schedule, 1, group="g", debug=False) is None
    assert [job.status for job in schedule.jobs] == ["failed", "done", "done"]
    dead, other, same = (runs_of(tmp_path / str(job) / stage)[0].split()[0] for job, stage in enumerate(("die_early", "kto", "ipo")))
    assert dead != other == same


def test_a_signal_reaches_those_at_work_and_nothing_more_is_begun(tmp_path: Path) -> None:
    schedule = schedule_of(tmp_path, ["wait_here", "dpo"], ["wait_too"], ["kto"])

    def stop() -> None:
        while not (runs_of(tmp_path / "0" / "wait_here") and runs_of(tmp_path / "1" / "wait_too")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop, daemon=True).start()
    begun = time.monotonic()
    assert run_in_workers(schedule, 2, group="g", debug=False) == 143
    assert time.monotonic() - begun < 50  # those that were waited for would have slept for 60 s
    assert [job["status"] for job in json.loads((tmp_path / "sweep.json").read_text())] == ["interrupted", "interrupted", "not run"]
    assert not runs_of(tmp_path / "2" / "kto")
    assert signal.getsignal(signal.SIGTERM) is before


def test_one_at_a_time_needs_no_other_process(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    schedule = schedule_of(tmp_path, ["sft", "fail_now"], [tmp_path / "0" / "sft", "ipo"])
    assert run_here(schedule, group="g", debug=False) is None
    assert [job.status for job in schedule.jobs] == ["failed", "done"]
    assert {runs_of(file.parent)[0].split()[0] for file in tmp_path.glob("*/*/begun")} == {str(os.getpid())}
    assert "this is ipo" in (tmp_path / "1" / "log.txt").read_text()
    assert capfd.readouterr() == ("", "")
