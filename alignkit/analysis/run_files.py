"""Run directories: finding them below a folder, and reading the files that alignkit leaves in each."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from alignkit.analysis.frames import flatten, hashable
from alignkit.analysis.json_lines import read_history, read_rows, whole, with_bytes
from alignkit.analysis.loaded import STEP, LoadedRun
from alignkit.errors import UserError
from alignkit.foreign_files import is_there, read_yaml
from alignkit.run_dir import RunDir

SWEEP, PIPELINE, FAILURE = "sweep.json", "pipeline.json", "failure.json"
"""What a sweep, a pipeline and a job that did not end well leave beside run directories, or in them."""
DONE, PRUNED, FAILED, INTERRUPTED, UNFINISHED = "done", "pruned", "failed", "interrupted", "unfinished"
"""How a run ended. `unfinished` has left no word yet: it is running, or was killed. `failed` includes one that diverged."""
STOPS = (129, 130, 143)
"""Exit codes of runs that were interrupted."""


def run_directories(folder: Path) -> Iterator[Path]:
    """The folder, where it is a run, else all below it, in order of their names. Nothing is sought inside a run."""
    for path, inner, files in os.walk(folder):
        inner.sort(key=natural)
        if "config.yaml" in files:
            inner.clear()
            yield Path(path)
        elif any(file.endswith(".wandb") for file in files):
            inner.clear()  # a run of W&B's, whose files/config.yaml is another thing


def natural(name: str) -> tuple[object, ...]:
    """A key that sorts `job-2` before `job-10`."""
    parts: list[object] = []
    digits = ""
    for character in f"{name}\0":
        if character.isdecimal():
            digits += character
            continue
        if digits:
            parts.append((0, int(digits), ""))
            digits = ""
        parts.append((1, 0, character))
    return tuple(parts)


def read_run(path: Path) -> LoadedRun:
    """The run in a directory, whether it is finished, running or was killed.

    Raises:
        UserError: when its config cannot be read.
    """
    run = RunDir(path)
    config = read_config(run.config)
    results = read_results(run.results)
    pipeline, stage = pipeline_of(path)
    sweep, job = job_of(path)
    folder = sweep or (path.parent if pipeline else None)
    return LoadedRun(
        name=str(path),
        path=str(path),
        config=config | inherited(config, pipeline, stage, job),
        results=results,
        history=read_history(run.metrics),
        samples=list(samples_of(read_rows(run.samples))),
        status=status_of(run, config, results, stage),
        stage=str(stage["stage"]) if stage else None,
        job=job["job"] if job else None,
        folder=str(folder) if folder else None,
    )


def read_config(file: Path) -> dict[str, Any]:
    """A config, flat.

    Raises:
        UserError: when it is no mapping in YAML, or means more than it writes down.
    """
    try:
        given = (read_yaml(file) or {}) if is_there(file) else {}
    except UserError as error:
        raise UserError(f"{error} Leave the run out, or repair the file.") from None
    if not isinstance(given, Mapping):
        raise UserError(f"{file}: must be a mapping, as a run writes it, not {type(given).__name__}. Leave the run out.")
    return dict(flatten(given))


def read_object(file: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none (yet)."""
    given = read_json(file)
    return with_bytes(given) if isinstance(given, dict) else {}


def read_json(file: Path) -> Any:
    """What a JSON file holds; None where there is none (yet)."""
    if not is_there(file):
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def read_results(file: Path) -> dict[str, Any]:
    """`results.json`: numbers, texts and truths by name. What is none of these is left out: no run wrote it."""
    return {name: value for name, value in read_object(file).items() if value is None or isinstance(value, int | float | str)}


def samples_of(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of `samples.jsonl` that have a prompt, a text or messages, each with its step, 0 where it says none."""
    for row in rows:
        if isinstance(row.get("prompt"), str | list):
            yield {**row, STEP: whole(row.get(STEP)) or 0}


def status_of(run: RunDir, config: Mapping[str, Any], results: Mapping[str, Any], stage: Mapping[str, Any] | None) -> str:
    """How a run ended, by what it left."""
    if run.pruned.exists():
        return PRUNED
    if failure := read_object(run.path / FAILURE):
        return INTERRUPTED if failure.get("exit_code") in STOPS else FAILED
    if stage and stage.get("status") in (FAILED, INTERRUPTED):
        return str(stage["status"])
    if not results:
        return UNFINISHED
    done, wanted = results.get("steps"), config.get("steps")
    # An interrupted run leaves results as well.
    return INTERRUPTED if isinstance(done, int) and isinstance(wanted, int) and done < wanted else DONE


def pipeline_of(path: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """`pipeline.json` beside a run, and the run's stage in it."""
    pipeline = read_object(path.parent / PIPELINE)
    pipeline["stages"] = [stage for stage in objects(pipeline.get("stages")) if isinstance(stage.get("stage"), str)]
    stages = [stage for stage in pipeline["stages"] if stage.get("directory") == path.name]
    return (pipeline, stages[0]) if stages else ({}, None)


def objects(value: object) -> list[dict[str, Any]]:
    """The objects in a list; none where it is no list."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def job_of(path: Path) -> tuple[Path | None, dict[str, Any] | None]:
    """The nearest sweep that a run is part of, and its job there."""
    for folder in list(path.parents)[:2]:  # a job is a run, or a pipeline of runs
        file = folder / SWEEP
        if file.exists():
            place = path.relative_to(folder).parts[0]
            jobs = [{**job, "job": whole(job.get("job"))} for job in objects(read_json(file)) if job.get("run") == place]
            return folder, next((job for job in jobs if job["job"] is not None), None)
    return None, None


def inherited(
    config: Mapping[str, Any], pipeline: Mapping[str, Any], stage: Mapping[str, Any] | None, job: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What a sweep gave a stage through the stages before it, which its own config does not show: `stages.reward.dataset.pairs`.

    Also `pipeline`, the name of the pipeline in whose directory the run lies; stages that pipelines share lie in that of the first.
    """
    if not stage:
        return {}
    order = [str(one["stage"]) for one in pipeline["stages"]]
    before = order[: order.index(str(stage["stage"]))]
    before += [re.sub(r"_\d+$", "", name) for name in before]  # `stages.dpo.` is for `dpo_1`, `dpo_2` and so on
    found: dict[str, Any] = {"pipeline": hashable(pipeline.get("pipeline"))}
    overrides = (job or {}).get("overrides", pipeline.get("overrides"))
    for override in overrides if isinstance(overrides, list) else []:
        key, _, value = str(override).lstrip("+~").partition("=")
        if key not in config and any(key.startswith(f"stages.{name}.") for name in before):
            found |= dict(flatten({key: typed(value)}))
    return found


def typed(value: str) -> Any:
    """The value of an override; the text where it is none in YAML, or one that means more than it writes down."""
    try:
        return value if "*" in value else yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        return value
