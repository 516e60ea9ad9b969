"""Which stage of several pipelines may run next, and what became of each. A stage that pipelines share is run once.

One process, the command, holds the schedule; whoever runs a stage, here or in a worker, tells it how that ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

from alignkit.job import DONE
from alignkit.pipelines.records import RUNNING, SETTLED, SKIPPED, StageRecord, done, settled, write_records
from alignkit.pipelines.stage_runs import Outcome, PlacedPipeline, PlacedStage, first_records
from alignkit.sweeping.sweep import NOT_RUN, STOPS, JobRecord, write


@final
class Schedule:
    """The stages of pipelines in the order in which they may run. `pipeline.json` of each pipeline, and the `sweep.json` of several, say
    at any time how far they are."""

    def __init__(self, pipelines: Sequence[PlacedPipeline], jobs: Sequence[JobRecord] = (), folder: Path | None = None) -> None:
        """`jobs`: one a pipeline, for the `sweep.json` in `folder`; none where there is but one pipeline."""
        self.pipelines = tuple(pipelines)
        self.records: list[list[StageRecord]] = [first_records(pipeline) for pipeline in pipelines]
        self.jobs = list(jobs)
        self._folder = folder
        self._running: set[Path] = set()
        self._failures: dict[Path, Outcome] = {}
        """Of this command; what failed in an earlier one is tried again."""
        self._users: dict[Path, list[tuple[int, int]]] = {}
        for number, pipeline in enumerate(self.pipelines):
            for place, stage in enumerate(pipeline.stages):
                self._users.setdefault(stage.run.path, []).append((number, place))
        for number in range(len(self.pipelines)):
            self._write(number)
        self._write_jobs()

    def next(self) -> PlacedStage | None:
        """The first stage, in the order of the pipelines, that nothing keeps from running now."""
        for number, pipeline in enumerate(self.pipelines):
            place = self._place(number)
            if place is not None and pipeline.stages[place].run.path not in self._running:
                return pipeline.stages[place]
        return None

    def begin(self, stage: PlacedStage) -> None:
        """Somebody runs the stage."""
        self._running.add(stage.run.path)
        for number, place in self._waiting(stage):
            self.records[number][place] = replace(self.records[number][place], status=RUNNING, exit_code=None, message="")
            self._write(number)
        self._write_jobs()

    def end(self, stage: PlacedStage, outcome: Outcome) -> None:
        """The stage has ended."""
        path = stage.run.path
        self._running.discard(path)
        if outcome.exit_code != DONE:
            self._failures[path] = outcome
        for number, place in self._waiting(stage):
            record = self.records[number][place]
            if outcome.exit_code == DONE:
                record = done(record, outcome.results)
            else:
                record = replace(record, status=outcome.status, exit_code=outcome.exit_code, message=outcome.message)
            self.records[number][place] = record
            stops = [each.stage.stop for each in self.pipelines[number].stages]
            self.records[number] = settled(self.records[number], stops)
            self._write(number)
        self._write_jobs()

    def _waiting(self, stage: PlacedStage) -> list[tuple[int, int]]:
        """Pipelines that have a stage, and its place there, but for those that have ended before it."""
        return [(number, place) for number, place in self._users[stage.run.path] if self.records[number][place].status != SKIPPED]

    def _place(self, number: int) -> int | None:
        """The place of a pipeline's next stage; None where it has none, because all are done or one has failed."""
        for place, (stage, record) in enumerate(zip(self.pipelines[number].stages, self.records[number], strict=True)):
            if record.status not in SETTLED:
                return None if stage.run.path in self._failures else place
        return None

    def _job(self, number: int) -> JobRecord:
        """How a pipeline stands, as a job of a sweep."""
        job, records = self.jobs[number], self.records[number]
        unfinished = [place for place, record in enumerate(records) if record.status not in SETTLED]
        if not unfinished:
            last = next(record for record in reversed(records) if record.status != SKIPPED)
            return replace(job, status="done", exit_code=DONE, message="", results=last.results)
        failure = self._failures.get(self.pipelines[number].stages[unfinished[0]].run.path)
        if failure is None:
            return replace(job, status=NOT_RUN, exit_code=None, message="")
        status = "interrupted" if failure.exit_code in STOPS else "failed"
        return replace(job, status=status, exit_code=failure.exit_code, message=failure.message)

    def _write(self, number: int) -> None:
        pipeline = self.pipelines[number]
        write_records(pipeline.folder, pipeline.pipeline, self.records[number])

    def _write_jobs(self) -> None:
        if self._folder is not None:
            self.jobs = [self._job(number) for number in range(len(self.jobs))]
            write(self._folder, self.jobs)
