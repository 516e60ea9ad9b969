"""Pipeline files: `conf/pipeline/rlhf.yaml` says which runs follow each other and what each reads of the ones before. Data, never code.

A stage's `options` and `from` are overrides as a user types them. `{sft}` in them is the directory of the stage `sft`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import yaml

from alignkit.composition import PIPELINE
from alignkit.config_checks import check_keys, check_line, check_name
from alignkit.configuration import conf_dir
from alignkit.errors import UserError

TRAIN = "train"
"""The command of a stage that names none."""
GENERATE = "generate"
EVALUATE = "evaluate"
STAGE_NAME = re.compile(r"[a-z]\w{0,40}", re.ASCII)
KEYS = ("command", "options", "from")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class StageFile:
    """One stage, as its file has it."""

    name: str
    command: str
    """A key of `alignkit.pipelines.stage_kinds.STAGE_KINDS`."""
    options: tuple[str, ...]
    """Overrides that give way to all that a user types."""
    wiring: tuple[str, ...]
    """The key `from`: overrides that tie the stage to earlier ones and give way to `stages.<name>.` alone."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineFile:
    """A pipeline, as its file has it."""

    name: str
    stages: tuple[StageFile, ...]
    """In the order in which they run, >= 1."""

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the stages, in order."""
        return tuple(stage.name for stage in self.stages)


def pipeline_files(config_dir: str | None) -> dict[str, Path]:
    """The files by name; those of a `--config-dir` come before packaged ones of the same name."""
    folders = [conf_dir(), *([Path(config_dir)] if config_dir is not None else [])]
    return {file.stem: file for folder in folders for file in sorted((folder / PIPELINE).glob("*.yaml"))}


def read_pipeline(name: str, config_dir: str | None) -> PipelineFile:
    """The pipeline of that name.

    Raises:
        UserError: when there is none, or its file is none of a pipeline.
    """
    files = pipeline_files(config_dir)
    check_name(PIPELINE, name, files)
    file = files[name]
    given = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    if not isinstance(given, Mapping):
        raise UserError(f"{file}: must hold `name` and `stages`, which has a stage or more. See conf/pipeline/dpo.yaml.")
    check_keys(str(file), given, ("name", "stages"))
    if given.get("name") != name:
        raise UserError(f"{file}: name = {given.get('name')!r}; must be {name!r}, as the file is called.")
    return pipeline_of(f"{file}: stages", name, given.get("stages"))


def pipeline_of(where: str, name: str, stages: object) -> PipelineFile:
    """The pipeline of these stages, as a file has them.

    Raises:
        UserError: naming the place and the key that is wrong.
    """
    if not isinstance(stages, Mapping) or not stages:
        raise UserError(f"{where} = {stages!r}; must have a stage or more. See conf/pipeline/dpo.yaml.")
    return PipelineFile(name=name, stages=tuple(read_stage(where, str(stage), values) for stage, values in stages.items()))


def read_stage(place: str, name: str, given: Mapping[str, Any] | None) -> StageFile:
    """One stage of a file.

    Raises:
        UserError: naming the file and the key that is wrong.
    """
    where = f"{place}.{name}"
    if not STAGE_NAME.fullmatch(name):
        raise UserError(f"{where}: a stage's name becomes a directory; must be lower-case letters, digits and '_', at most 41.")
    values = {} if given is None else given
    if not isinstance(values, Mapping):
        raise UserError(f"{where} = {values!r}; must hold some of {', '.join(KEYS)}.")
    check_keys(where, values, KEYS)
    for key in ("options", "from"):
        lines = values.get(key) or []
        if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
            raise UserError(f"{where}.{key} = {lines!r}; must be a list of overrides, e.g. [loss=dpo, steps=200].")
        for line in lines:
            check_line(f"{where}.{key}", line)
    return StageFile(
        name=name,
        command=str(values.get("command", TRAIN)),
        options=tuple(values.get("options") or ()),
        wiring=tuple(values.get("from") or ()),
    )
