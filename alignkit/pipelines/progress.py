"""What a sweep of pipelines shows while it runs: how far each job is, read from the files that its stages write."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, final

import yaml

from alignkit.pipelines.records import RECORD, RUNNING, SKIPPED, STAGE_DONE
from alignkit.run_dir import RunDir
from alignkit.sweeping.progress import View, newest_rows
from alignkit.sweeping.sweep import NOT_RUN, JobRecord, read


@final
class StageWatch:
    """Follows the jobs of a sweep of pipelines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last: dict[int, View] = {}
        self.steps: dict[Path, int | None] = {}
        """Of the runs that were seen running; None for those that have no steps."""

    def look(self, *, is_last: bool = False) -> list[View]:
        """All jobs, as they stand now. Those that have ended are not read again."""
        for job in read(self.folder):
            before = self.last.get(job.job)
            if before is None or before.status in (NOT_RUN, RUNNING):
                self.last[job.job] = self.view(job, self.folder / job.run)
        return list(self.last.values())

    def view(self, job: JobRecord, folder: Path) -> View:
        """One job: the stage of its own that runs now, or the last one. A job whose stage runs in another one's directory waits for it."""
        stages: list[dict[str, Any]] = json.loads((folder / RECORD).read_text(encoding="utf-8"))["stages"]
        ran = [stage for stage in stages if stage["status"] != SKIPPED]
        now = next((stage for stage in ran if stage["status"] != STAGE_DONE), ran[-1])
        run, has_begun = RunDir(folder / now["directory"]), job.job in self.last and self.last[job.job].status == RUNNING
        is_running = now["status"] == RUNNING and run.path.parent == folder
        status = RUNNING if job.status == NOT_RUN and (is_running or has_begun) else job.status
        value, step, steps = job.results.get(now["headline"]), 0, None
        seconds = sum(stage["seconds"] or 0.0 for stage in stages)
        if is_running and run.config.exists():
            rows, steps = newest_rows(run.metrics), self.steps_of(run)
            step = int(rows[-1]["step"]) if rows else 0
            value = next((row[now["headline"]] for row in reversed(rows) if now["headline"] in row), None)
            seconds += time.time() - run.config.stat().st_mtime
        return View(
            job=job,
            status=status,
            stage=now["stage"] if is_running else "",
            step=step,
            steps=steps,
            monitor=now["headline"],
            value=value,
            seconds=seconds,
        )

    def steps_of(self, run: RunDir) -> int | None:
        """The steps of a run that has begun, as its config says once it is written."""
        if run.path not in self.steps and (config := yaml.safe_load(run.config.read_text(encoding="utf-8"))):
            self.steps[run.path] = config.get("steps")
        return self.steps.get(run.path)
