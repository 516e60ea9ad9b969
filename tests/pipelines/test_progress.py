"""What is shown of a sweep of pipelines while it runs: read from files, as another process would."""

from __future__ import annotations

import sys
from pathlib import Path

from alignkit.pipelines.progress import StageWatch
from alignkit.pipelines.schedule import Schedule
from alignkit.pipelines.stage_runs import Outcome
from alignkit.run_dir import RunDir
from alignkit.sweeping.progress import View, ending_line
from alignkit.sweeping.sweep import JobRecord

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder
from stand_in_stages import pipeline


def told(views: list[View]) -> list[tuple[str, str, int, int | None, object]]:
    return [(view.status, view.stage, view.step, view.steps, view.value) for view in views]


def test_a_job_shows_its_own_stage_and_one_that_waits_for_another_jobs_stage_has_not_begun(tmp_path: Path) -> None:
    shared = tmp_path / "0" / "sft"
    placed = [pipeline(tmp_path / "0", "sft", "dpo"), pipeline(tmp_path / "1", shared, "ipo")]
    jobs = [JobRecord(job=number, arm=arm, overrides=["seed=1"], run=str(number)) for number, arm in enumerate(("a", "b"))]
    schedule, watch = Schedule(placed, jobs, tmp_path), StageWatch(tmp_path)
    idle = ("not run", "", 0, None, None)
    assert told(watch.look()) == [idle, idle]

    sft = placed[0].stages[0]
    schedule.begin(sft)
    run = RunDir.create(shared)
    run.config.write_text("steps: 40\n")
    for step, loss in ((10, 0.7), (20, 0.6)):
        run.append_metrics({"val/loss": loss}, step=step, epoch=0.0)
    assert told(watch.look()) == [("running", "sft", 20, 40, 0.6), idle]

    schedule.end(sft, Outcome(exit_code=0, results={"val/loss": 0.6, "seconds": 3.0}))
    schedule.begin(placed[1].stages[1])
    assert told(watch.look()) == [("running", "", 0, None, None), ("running", "ipo", 0, None, None)]  # job 0 is between two stages

    schedule.end(placed[1].stages[1], Outcome(exit_code=0, results={"val/loss": 0.5, "seconds": 2.0}))
    schedule.begin(placed[0].stages[1])
    schedule.end(placed[0].stages[1], Outcome(exit_code=1, message="a bug"))
    first, second = watch.look(is_last=True)
    assert (first.status, second.status) == ("failed", "done")
    assert ending_line(second) == "done in 5.0 s, val/loss 0.5"
    assert second.job.words == "b seed=1"
