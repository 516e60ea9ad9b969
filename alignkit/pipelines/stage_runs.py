"""Running the stages of a pipeline in their directories, without running a finished one again; `pipeline.json` says how each ended."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, final

from alignkit.errors import UserError
from alignkit.job import DONE, WRONG_INPUT, ending, give_up
from alignkit.metrics import VALIDATION
from alignkit.pipelines.stage_kinds import StageSettings, fill, telling_config
from alignkit.pipelines.stages import Pipeline, Stage
from alignkit.run_dir import RunDir, Scalar, jsonable
from alignkit.summary import START, number
from alignkit.sweep import STOPS

RECORD = "pipeline.json"
COSTS = ("steps", "seconds", "training_seconds", "peak_memory_bytes")
"""Results that `pipeline.json` repeats beside the held-out metrics."""
MOST_DIFFERENCES = 3
"""Of two configs, named in a message."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class StageRecord:
    """One stage in `pipeline.json`."""

    stage: str
    command: str
    label: str
    """What it does: its loss."""
    headline: str
    """The result that says whether it worked."""
    before: str
    """The result that `headline` is compared with."""
    overrides: list[str]
    """As they could be typed for its command; `{sft}` is the directory of that stage."""
    directory: str
    """Its run directory, seen from the pipeline's. In a sweep it may lie in another job's, which has the same stage."""
    status: str = "not run"
    """`not run`, `running`, `done`, `failed` or `interrupted`."""
    exit_code: int | None = None
    message: str = ""
    """Why it failed."""
    seconds: float | None = None
    """Of the whole run, whenever it was."""
    results: dict[str, Scalar] = field(default_factory=dict)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedStage:
    """A stage that knows where it and the stages that it reads are."""

    stage: Stage
    settings: StageSettings
    """Ready to run."""
    run: RunDir

    @property
    def results(self) -> dict[str, Scalar] | None:
        """What a run in its place left, if it came to its end."""
        if not (self.run.results.exists() and self.run.config.exists()):
            return None
        status = {record.stage: record.status for record in read_records(self.run.path.parent)}.get(self.run.path.name, "not run")
        results: dict[str, Scalar] = json.loads(self.run.results.read_text(encoding="utf-8"))
        # Interrupted and diverged runs leave results too. A process that was killed may have left no status.
        complete = status not in ("failed", "interrupted") and self.stage.kind.is_complete(self.settings, results)
        return results if status == "done" or complete else None


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedPipeline:
    """A pipeline with its directory."""

    pipeline: Pipeline
    folder: Path
    stages: tuple[PlacedStage, ...]


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
    for placed in pipelines:
        for stage in placed.stages:
            if stage.results is None:
                continue
            if changes := list(differences_of(stage)):
                more = f" and {len(changes) - MOST_DIFFERENCES} more" if len(changes) > MOST_DIFFERENCES else ""
                raise UserError(
                    f"stage {stage.stage.name} is finished in {stage.run.path}, with other settings: "
                    f"{'; '.join(changes[:MOST_DIFFERENCES])}{more}. Choose another run_dir, or remove that directory to run it again."
                )


def differences_of(placed: PlacedStage) -> Iterator[str]:
    """What differs between the config of the run in a stage's place and the stage."""
    there = telling_config(placed.run.config.read_text(encoding="utf-8"))
    return differences(there, telling_config(placed.stage.kind.config_yaml(placed.settings)))


def differences(there: Mapping[str, Any], here: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """`loss.beta is 0.1 there and 0.2 here`, for each value that differs."""
    for key in dict.fromkeys([*there, *here]):
        old, new, where = there.get(key), here.get(key), f"{path}{key}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{where}.")
        elif old != new:
            yield f"{where} is {old!r} there and {new!r} here"


def run_stages(placed: PlacedPipeline, *, group: str) -> list[StageRecord]:
    """Run what is not finished, in order, and keep `pipeline.json` up to date. `group` is W&B's.

    Raises:
        whatever ends a run; `pipeline.json` says which stage it was.
    """
    records = first_records(placed)
    for index, stage in enumerate(placed.stages):
        announcement = f"stage {index + 1} of {len(records)}: {stage.stage.name}"
        if records[index].status == "done":
            print(f"{announcement} is finished, in {stage.run.path}", flush=True)
            continue
        print(announcement, flush=True)
        records[index] = replace(records[index], status="running", exit_code=None, message="")
        write_records(placed, records)
        try:
            records[index] = done(records[index], carry_out(stage, group=group))
        except BaseException as error:
            code, message = ending(error)
            status = "interrupted" if code in STOPS else "failed"
            records[index] = replace(records[index], status=status, exit_code=code, message=message)
            if code == WRONG_INPUT and stage.run.config.exists():
                give_up(stage.run)
            raise
        finally:
            write_records(placed, records)
        print(f"{stage.stage.name}: {records[index].headline} {change(records[index])}", flush=True)
    write_records(placed, records)
    return records


def carry_out(placed: PlacedStage, *, group: str) -> dict[str, Scalar]:
    """Run one stage: from where it was stopped if that is possible, else from its beginning, and then what it left is removed."""
    kind, name, run = placed.stage.kind, placed.stage.name, placed.run
    logger = placed.settings.run.logger
    settings = replace(placed.settings, run=replace(placed.settings.run, logger=replace(logger, group=logger.group or group)))
    let_go()
    if run.config.exists():
        if not list(differences_of(placed)) and kind.can_go_on(run):
            print(f"{name} goes on from where it was stopped", flush=True)
            return kind.go_on(settings, run)
        print(f"{name} was not finished and is started anew", flush=True)
        shutil.rmtree(run.path)
    return kind.carry_out(settings, RunDir.create(run.path))


def let_go() -> None:
    """Free what an earlier stage held, and forget its peaks of memory, so that each stage reports its own."""
    import torch

    gc.collect()
    forget_peak()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def forget_peak() -> None:
    """Forget the peak of this process's memory. Where there is no way to, a stage's peak is that of the pipeline so far."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux alone


def first_records(placed: PlacedPipeline) -> list[StageRecord]:
    """The stages before anything runs: those that are finished, and what became of the others when this was last tried."""
    known = {record.stage: record for record in read_records(placed.folder)}
    records = []
    for each in placed.stages:
        stage, kind, results = each.stage, each.stage.kind, each.results
        headline, before = kind.headline(each.settings)
        record = StageRecord(
            stage=stage.name,
            command=stage.command,
            label=kind.label(each.settings),
            headline=headline,
            before=before,
            overrides=list(stage.overrides),
            directory=os.path.relpath(each.run.path, placed.folder),
        )
        last = known.get(stage.name)
        if results is not None:
            record = done(record, results)
        elif last is not None and last.status != "done":
            record = replace(record, status=last.status, exit_code=last.exit_code, message=last.message)
        records.append(record)
    return records


def done(record: StageRecord, results: Mapping[str, Scalar]) -> StageRecord:
    """The record of a stage with these results."""
    names = (*COSTS, record.headline, record.before)
    kept = {name: value for name, value in results.items() if name in names or name.removeprefix(START).startswith(VALIDATION)}
    seconds = results.get("seconds")
    return replace(record, status="done", exit_code=DONE, seconds=seconds if isinstance(seconds, (int, float)) else None, results=kept)


def change(record: StageRecord) -> str:
    """A stage's headline before and after: `0.5 -> 0.75`."""
    before, after = number(record.results.get(record.before)), number(record.results.get(record.headline))
    return f"{before} -> {after}" if before else after


def read_records(folder: Path) -> list[StageRecord]:
    """The stages in a directory's `pipeline.json`; none where there is no such file.

    Raises:
        UserError: when it is not what this version writes.
    """
    file = folder / RECORD
    if not file.exists():
        return []
    try:
        return [StageRecord(**stage) for stage in json.loads(file.read_text(encoding="utf-8"))["stages"]]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{file}: cannot be read ({error}). Choose another run_dir; or remove the file, and only complete runs count."
        ) from None


def write_records(placed: PlacedPipeline, records: Sequence[StageRecord]) -> None:
    """Write `pipeline.json` whole or not at all."""
    stages = [asdict(record) | {"results": {name: jsonable(value) for name, value in record.results.items()}} for record in records]
    told = {"pipeline": placed.pipeline.name, "overrides": list(placed.pipeline.changes), "stages": stages}
    placed.folder.mkdir(parents=True, exist_ok=True)
    draft = placed.folder / f"{RECORD}.part"
    draft.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(placed.folder / RECORD)
