"""Which stage may run when, and what is written of it. Nothing is run here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from alignkit.pipelines.schedule import Schedule
from alignkit.pipelines.stage_runs import Outcome
from alignkit.sweeping.sweep import JobRecord

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder
from stand_in_stages import pipeline

DONE = Outcome(exit_code=0, results={"val/loss": 1.0, "seconds": 2.0})


@pytest.fixture
def schedule(tmp_path: Path) -> Schedule:
    """Two jobs that share their first stage, and one of its own."""
    shared = tmp_path / "a" / "sft"
    placed = [pipeline(tmp_path / "a", "sft", "dpo"), pipeline(tmp_path / "b", shared, "ipo"), pipeline(tmp_path / "c", "kto")]
    jobs = [JobRecord(job=number, overrides=[], run=name) for number, name in enumerate("abc")]
    return Schedule(placed, jobs, tmp_path)


def begun(schedule: Schedule) -> str | None:
    """Begin the next stage, and its name."""
    stage = schedule.next()
    if stage is not None:
        schedule.begin(stage)
    return stage.stage.name if stage is not None else None


def end(schedule: Schedule, name: str, outcome: Outcome = DONE) -> None:
    (stage,) = {id(s): s for p in schedule.pipelines for s in p.stages if s.stage.name == name and s.run.path.parent == p.folder}.values()
    schedule.end(stage, outcome)


def statuses(folder: Path) -> list[str]:
    return [stage["status"] for stage in json.loads((folder / "pipeline.json").read_text())["stages"]]


def test_stages_wait_for_the_one_before_and_shared_ones_are_run_once(schedule: Schedule) -> None:
    assert [begun(schedule), begun(schedule), begun(schedule)] == ["sft", "kto", None]
    end(schedule, "sft")
    assert [begun(schedule), begun(schedule), begun(schedule)] == ["dpo", "ipo", None]
    for name in ("ipo", "kto", "dpo"):
        end(schedule, name)
    assert begun(schedule) is None
    assert [job.status for job in schedule.jobs] == ["done"] * 3


def test_a_failure_ends_the_jobs_that_have_the_stage_and_no_other(schedule: Schedule, tmp_path: Path) -> None:
    assert begun(schedule) == "sft"
    end(schedule, "sft", Outcome(exit_code=3, message="the loss is nan"))
    assert [begun(schedule), begun(schedule)] == ["kto", None]
    end(schedule, "kto")
    assert [(job.status, job.exit_code, job.message) for job in schedule.jobs] == [
        ("failed", 3, "the loss is nan"),
        ("failed", 3, "the loss is nan"),
        ("done", 0, ""),
    ]
    assert json.loads((tmp_path / "sweep.json").read_text())[1]["message"] == "the loss is nan"
    assert statuses(tmp_path / "b") == ["failed", "not run"]


def test_the_files_say_at_any_time_how_far_each_job_is(schedule: Schedule, tmp_path: Path) -> None:
    assert [statuses(tmp_path / name) for name in "abc"] == [["not run", "not run"]] * 2 + [["not run"]]
    begun(schedule)
    assert [statuses(tmp_path / name) for name in "abc"] == [["running", "not run"]] * 2 + [["not run"]]
    end(schedule, "sft")
    assert [statuses(tmp_path / name) for name in "ab"] == [["done", "not run"]] * 2
    assert [job["status"] for job in json.loads((tmp_path / "sweep.json").read_text())] == ["not run"] * 3


def test_what_failed_before_is_tried_again_and_what_is_finished_is_not(tmp_path: Path) -> None:
    first = Schedule([pipeline(tmp_path / "a", "sft", "dpo")])
    begun(first)
    (tmp_path / "a" / "sft").mkdir()
    (tmp_path / "a" / "sft" / "config.yaml").write_text("a: 1\n")
    (tmp_path / "a" / "sft" / "results.json").write_text('{"val/loss": 1.0}')
    end(first, "sft")
    begun(first)
    end(first, "dpo", Outcome(exit_code=1, message="a bug"))
    assert statuses(tmp_path / "a") == ["done", "failed"]
    assert begun(Schedule([pipeline(tmp_path / "a", "sft", "dpo")])) == "dpo"
