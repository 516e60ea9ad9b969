"""`pipeline.json`: the stages of a pipeline and how each ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import final

from alignkit.errors import UserError
from alignkit.job import DONE
from alignkit.metrics import VALIDATION
from alignkit.pipelines.stage_file import Stop
from alignkit.pipelines.stages import Pipeline
from alignkit.run_dir import Scalar, jsonable
from alignkit.summary import START, number

RECORD = "pipeline.json"
COSTS = ("steps", "seconds", "training_seconds", "peak_memory_bytes")
"""Results that `pipeline.json` repeats beside the held-out metrics."""
STAGE_DONE = "done"
RUNNING = "running"
NOT_RUN = "not run"
SKIPPED = "skipped"
"""Not run, and not to be: rounds ended early."""
SETTLED = (STAGE_DONE, SKIPPED)
"""Of stages that nobody has to run."""
FAILED = "failed"
INTERRUPTED = "interrupted"


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
    status: str = NOT_RUN
    """`not run`, `running`, `done`, `failed`, `interrupted` or `skipped`."""
    exit_code: int | None = None
    message: str = ""
    """Why it failed, or was skipped."""
    seconds: float | None = None
    """Of the whole run, whenever it was."""
    results: dict[str, Scalar] = field(default_factory=dict)


def done(record: StageRecord, results: Mapping[str, Scalar]) -> StageRecord:
    """The record of a stage with these results."""
    names = (*COSTS, record.headline, record.before)
    kept = {name: value for name, value in results.items() if name in names or name.removeprefix(START).startswith(VALIDATION)}
    seconds = results.get("seconds")
    return replace(
        record,
        status=STAGE_DONE,
        exit_code=DONE,
        message="",
        seconds=seconds if isinstance(seconds, (int, float)) else None,
        results=kept,
    )


def settled(records: Sequence[StageRecord], stops: Sequence[Stop | None]) -> list[StageRecord]:
    """Records of a pipeline's stages, of which those after one that ends the rounds are skipped, finished or not: what a pipeline runs
    depends on its command and its results alone. `stops`: the rule of each stage."""
    told: list[StageRecord] = []
    reason = ""
    for record, stop in zip(records, stops, strict=True):
        if reason:
            skipped = replace(record, status=SKIPPED, exit_code=None, message=reason, seconds=None, results={})
            told.append(skipped)
            continue
        told.append(record)
        if stop is not None and record.status == STAGE_DONE and stop.holds(record.results):
            reason = f"{stop.result} of {record.stage} is {number(record.results[stop.result])}, at most {number(stop.at_most)}"
    return told


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


def write_records(folder: Path, pipeline: Pipeline, records: Sequence[StageRecord]) -> None:
    """Write `pipeline.json` whole or not at all."""
    stages = [asdict(record) | {"results": {name: jsonable(value) for name, value in record.results.items()}} for record in records]
    told = {"pipeline": pipeline.name, "arm": pipeline.arm, "overrides": list(pipeline.changes), "stages": stages}
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{RECORD}.part"
    draft.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(folder / RECORD)
