"""Rounds that end early: what is skipped, what is written of it, and what other jobs of a sweep make of the same stages."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from alignkit.pipelines.progress import StageWatch
from alignkit.pipelines.records import SKIPPED
from alignkit.pipelines.schedule import Schedule
from alignkit.pipelines.stage_file import Stop
from alignkit.pipelines.stage_runs import Outcome, PlacedPipeline
from alignkit.pipelines.tables import jobs_table, stages_table
from alignkit.run_dir import RunDir
from alignkit.sweeping.sweep import JobRecord

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder
from stand_in_stages import pipeline

STAGES = ("dpo_1", "win_1", "dpo_2", "win_2")


def rounds(folder: Path, *stages: Path | str, at_most: float | None = 0.5) -> PlacedPipeline:
    """Two rounds that end early by the stand-in's result, `val/loss`; None: never."""
    placed = pipeline(folder, *(stages or STAGES))
    for stage in placed.stages:
        if stage.stage.name.startswith("win") and at_most is not None:
            stage.stage.stop = Stop(result="val/loss", at_most=at_most)  # type: ignore[misc]
    return placed


def run(schedule: Schedule, worth: float = 0.4) -> list[str]:
    """Run what is to be run, every stage with this result, and the names of the stages."""
    names = []
    while (stage := schedule.next()) is not None:
        schedule.begin(stage)
        run = RunDir.create(stage.run.path)
        run.config.write_text("a: 1\n")
        run.write_results({"val/loss": worth, "seconds": 2.0})
        schedule.end(stage, Outcome(exit_code=0, results={"val/loss": worth, "seconds": 2.0}))
        names.append(stage.stage.name)
    return names


def statuses(folder: Path) -> list[str]:
    return [stage["status"] for stage in json.loads((folder / "pipeline.json").read_text())["stages"]]


def printed(table: object) -> list[list[str]]:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return [line.split() for line in console.export_text().splitlines()]


def jobs(*folders: str) -> list[JobRecord]:
    return [JobRecord(job=number, overrides=[f"stop={name}"], run=name) for number, name in enumerate(folders)]


@pytest.mark.parametrize(("worth", "expected"), [(0.4, STAGES[:2]), (0.5, STAGES[:2]), (0.51, STAGES)])
def test_rounds_end_where_the_result_is_at_most_the_threshold(tmp_path: Path, worth: float, expected: tuple[str, ...]) -> None:
    schedule = Schedule([rounds(tmp_path / "a")], jobs("a"), tmp_path)
    assert run(schedule, worth) == list(expected)
    assert statuses(tmp_path / "a") == ["done"] * len(expected) + ["skipped"] * (4 - len(expected))
    (job,) = schedule.jobs
    assert (job.status, job.exit_code, job.results["val/loss"]) == ("done", 0, worth)


def test_a_skipped_stage_says_why_and_is_in_the_tables(tmp_path: Path) -> None:
    schedule = Schedule([rounds(tmp_path / "a"), rounds(tmp_path / "b", at_most=None)], jobs("a", "b"), tmp_path)
    run(schedule)
    record = schedule.records[0][2]
    assert (record.status, record.message, record.exit_code) == (SKIPPED, "val/loss of win_1 is 0.4, at most 0.5", None)
    assert printed(stages_table(schedule.records[0]))[-2][-1] == "skipped"
    skipped = [sum(record.status == SKIPPED for record in records) for records in schedule.records]
    told = printed(jobs_table(schedule.jobs, ["val/loss"] * 2, skipped))
    assert ["job", "stop", "status", "skipped", "val/loss"] in told
    assert ["0", "a", "done", "2", "0.4"] in told
    assert ["1", "b", "done", "0", "0.4"] in told
    assert "skipped" not in str(printed(jobs_table(schedule.jobs, ["val/loss"] * 2, [0, 0])))


def test_typed_again_what_was_skipped_is_not_run_and_another_threshold_counts_at_once(tmp_path: Path) -> None:
    run(Schedule([rounds(tmp_path / "a")]))
    assert run(Schedule([rounds(tmp_path / "a")])) == []
    assert run(Schedule([rounds(tmp_path / "a", at_most=None)])) == ["dpo_2", "win_2"]
    assert statuses(tmp_path / "a") == ["done"] * 4
    again = Schedule([rounds(tmp_path / "a")])  # finished meanwhile, and not this command's
    assert (run(again), statuses(tmp_path / "a")) == ([], ["done", "done", "skipped", "skipped"])


def test_a_pipeline_that_was_killed_before_it_could_tell_skips_when_it_is_typed_again(tmp_path: Path) -> None:
    first = Schedule([rounds(tmp_path / "a")])
    for _ in range(2):
        stage = first.next()
        assert stage is not None
        first.begin(stage)
        RunDir.create(stage.run.path).config.write_text("a: 1\n")
        stage.run.write_results({"val/loss": 0.4})
        if stage.stage.name == "dpo_1":
            first.end(stage, Outcome(exit_code=0, results={"val/loss": 0.4}))
    assert statuses(tmp_path / "a") == ["done", "running", "not run", "not run"]
    assert run(Schedule([rounds(tmp_path / "a")])) == []
    assert statuses(tmp_path / "a") == ["done", "done", "skipped", "skipped"]


@pytest.mark.parametrize("first_stops", [True, False])
def test_jobs_that_share_stages_end_each_by_its_own_rule(tmp_path: Path, first_stops: bool) -> None:
    thresholds = (0.5, None) if first_stops else (None, 0.5)
    stages = [tmp_path / "a" / name for name in STAGES]

    def schedule() -> Schedule:
        placed = [rounds(tmp_path / "a", at_most=thresholds[0]), rounds(tmp_path / "b", *stages, at_most=thresholds[1])]
        return Schedule(placed, jobs("a", "b"), tmp_path)

    one = schedule()
    assert run(one) == list(STAGES)
    ended, whole = ("a", "b") if first_stops else ("b", "a")
    for _ in range(2):
        assert statuses(tmp_path / ended) == ["done", "done", "skipped", "skipped"]
        assert statuses(tmp_path / whole) == ["done"] * 4
        assert [job.status for job in one.jobs] == ["done", "done"]
        one = schedule()
        assert run(one) == []


def test_a_job_that_ended_early_is_shown_as_done(tmp_path: Path) -> None:
    schedule = Schedule([rounds(tmp_path / "a")], jobs("a"), tmp_path)
    run(schedule)
    (view,) = StageWatch(tmp_path).look(is_last=True)
    assert (view.status, view.value, view.seconds) == ("done", 0.4, 4.0)


def test_a_stage_that_failed_ends_nothing_early(tmp_path: Path) -> None:
    schedule = Schedule([rounds(tmp_path / "a", "win_1", "dpo_2")], jobs("a"), tmp_path)
    stage = schedule.next()
    assert stage is not None
    schedule.begin(stage)
    schedule.end(stage, Outcome(exit_code=1, message="a bug", results={"val/loss": 0.1}))
    assert statuses(tmp_path / "a") == ["failed", "not run"]
    assert schedule.jobs[0].status == "failed"
