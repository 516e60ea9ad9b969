"""The stages of pipelines in their directories, and running one of them without running a finished one again."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from alignkit.errors import UserError
from alignkit.job import DONE, WRONG_INPUT, ending, give_up, show
from alignkit.pipelines.placeholders import fill, telling_config
from alignkit.pipelines.records import FAILED, INTERRUPTED, NOT_RUN, SETTLED, STAGE_DONE, StageRecord, done, read_records, settled
from alignkit.pipelines.stage_kind import StageKind, StageSettings
from alignkit.pipelines.stage_kinds import STAGE_KINDS
from alignkit.pipelines.stages import Pipeline, Stage
from alignkit.run_dir import RunDir, Scalar
from alignkit.run_lock import only_here
from alignkit.sweeping.sweep import STOPS

MOST_DIFFERENCES = 3
"""Of two configs, named in a message."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedStage:
    """A stage that knows where it and the stages that it reads are."""

    stage: Stage
    settings: StageSettings
    """Ready to run."""
    run: RunDir

    @property
    def kind(self) -> StageKind:
        """What runs it."""
        return STAGE_KINDS[self.stage.command]

    @property
    def results(self) -> dict[str, Scalar] | None:
        """What a run in its place left, if it came to its end."""
        if not (self.run.results.exists() and self.run.config.exists()):
            return None
        status = {record.stage: record.status for record in read_records(self.run.path.parent)}.get(self.run.path.name, NOT_RUN)
        results: dict[str, Scalar] = json.loads(self.run.results.read_text(encoding="utf-8"))
        # Interrupted and diverged runs leave results too. A process that was killed may have left no status.
        complete = status not in (FAILED, INTERRUPTED) and self.kind.is_complete(self.settings, results)
        return results if status == STAGE_DONE or complete else None


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedPipeline:
    """A pipeline with its directory."""

    pipeline: Pipeline
    folder: Path
    stages: tuple[PlacedStage, ...]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How the run of a stage ended."""

    exit_code: int
    message: str = ""
    """Why it did not work."""
    results: Mapping[str, Scalar] = field(default_factory=dict)
    """Where it did."""

    @property
    def status(self) -> str:
        """The word for it in `pipeline.json`."""
        return STAGE_DONE if self.exit_code == DONE else INTERRUPTED if self.exit_code in STOPS else FAILED


def place(pipelines: Sequence[Pipeline], folders: Sequence[Path]) -> list[PlacedPipeline]:
    """Give each stage its directory: inside that of the first pipeline that has it.

    Two stages are the same where all that decides what they compute is: their settings, and the stages that they read.
    """
    owners: dict[str, Path] = {}
    placed = []
    for pipeline, folder in zip(pipelines, folders, strict=True):
        places: dict[str, str] = {}
        stages = []
        for stage in pipeline.stages:
            path = owners.setdefault(stage.identity, folder / stage.name)
            places[stage.name] = str(path)
            stages.append(PlacedStage(stage=stage, settings=fill(stage.settings, places), run=RunDir(path)))
        placed.append(PlacedPipeline(pipeline=pipeline, folder=folder, stages=tuple(stages)))
    return placed


def check_finished(pipelines: Sequence[PlacedPipeline]) -> None:
    """Refuse directories that hold the results of other settings.

    Raises:
        UserError: naming the stage and what differs.
    """
    seen: set[Path] = set()
    for stage in (stage for placed in pipelines for stage in placed.stages):
        if stage.run.path in seen or stage.results is None:
            continue
        seen.add(stage.run.path)
        if changes := list(differences_of(stage)):
            more = f" and {len(changes) - MOST_DIFFERENCES} more" if len(changes) > MOST_DIFFERENCES else ""
            raise UserError(
                f"stage {stage.stage.name} is finished in {stage.run.path}, with other settings: "
                f"{'; '.join(changes[:MOST_DIFFERENCES])}{more}. Choose another run_dir, or remove that directory to run it again."
            )


def differences_of(placed: PlacedStage) -> Iterator[str]:
    """What differs between the config of the run in a stage's place and the stage."""
    there = telling_config(placed.run.config.read_text(encoding="utf-8"))
    return differences(there, telling_config(placed.kind.config_yaml(placed.settings)))


def differences(there: Mapping[str, Any], here: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """`loss.beta is 0.1 there and 0.2 here`, for each value that differs."""
    for key in dict.fromkeys([*there, *here]):
        old, new, where = there.get(key), here.get(key), f"{path}{key}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{where}.")
        elif old != new:
            yield f"{where} is {old!r} there and {new!r} here"


def attempt(placed: PlacedStage, *, group: str, debug: bool) -> Outcome:
    """Run one stage, and tell the user why where it does not work. `group` is W&B's."""
    try:
        return Outcome(exit_code=DONE, results=carry_out(placed, group=group))
    except BaseException as error:
        code, message = ending(error)
        show(error, code, message, debug=debug)
        if code == WRONG_INPUT and placed.run.config.exists():
            give_up(placed.run)
        return Outcome(exit_code=code, message=message)


def carry_out(placed: PlacedStage, *, group: str) -> dict[str, Scalar]:
    """Run one stage: from where it was stopped if that is possible, else from its beginning, and then what it left is removed."""
    kind, name, run = placed.kind, placed.stage.name, placed.run
    logger = placed.settings.run.logger
    settings = replace(placed.settings, run=replace(placed.settings.run, logger=replace(logger, group=logger.group or group)))
    let_go()
    if run.config.exists():
        with only_here(run.path):  # whoever else is at work there goes on alone
            pass
        if not list(differences_of(placed)) and kind.can_go_on(run):
            print(f"{name} goes on from where it was stopped", flush=True)
            return kind.go_on(settings, run)
        print(f"{name} was not finished and is started anew", flush=True)
        shutil.rmtree(run.path)
    return kind.carry_out(settings, RunDir.create(run.path))


def let_go() -> None:
    """Free what an earlier stage held, and forget its peaks of memory, so that each stage reports its own."""
    gc.collect()
    forget_peak()
    torch = sys.modules.get("torch")  # where nothing has imported it nothing holds a device
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def forget_peak() -> None:
    """Forget the peak of this process's memory. Where there is no way to, a stage's peak is that of the pipeline so far."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux alone


def first_records(placed: PlacedPipeline) -> list[StageRecord]:
    """The stages before anything runs: those that are finished, those that finished ones have made needless, and what became of the others
    when this was last tried."""
    known = {record.stage: record for record in read_records(placed.folder)}
    records = []
    for each in placed.stages:
        stage, results = each.stage, each.results
        headline, before = each.kind.headline(each.settings)
        record = StageRecord(
            stage=stage.name,
            command=stage.command,
            label=each.kind.label(each.settings),
            headline=headline,
            before=before,
            overrides=list(stage.overrides),
            directory=os.path.relpath(each.run.path, placed.folder),
        )
        last = known.get(stage.name)
        if results is not None:
            record = done(record, results)
        elif last is not None and last.status not in SETTLED:
            record = replace(record, status=last.status, exit_code=last.exit_code, message=last.message)
        records.append(record)
    return settled(records, [each.stage.stop for each in placed.stages])
