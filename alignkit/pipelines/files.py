"""Pipeline files: `conf/pipeline/rlhf.yaml` says which runs follow each other and what each reads of the ones before. Data, never code.

A stage's `options` and `from` are overrides as a user types them. `{sft}` in them is the directory of the stage `sft`. Stages may be
repeated (see `rounds`), and a file may have keys of its own that stand for overrides of several stages (see `choices`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import yaml

from alignkit.composition import PIPELINE
from alignkit.config_checks import check_keys, check_name
from alignkit.configuration import conf_dir, run_fields
from alignkit.errors import UserError
from alignkit.pipelines.choices import ChoiceFile, read_choices
from alignkit.pipelines.rounds import PREVIOUS, RoundsFile, is_rounds, read_rounds, typed_rounds, typed_stop
from alignkit.pipelines.stage_file import StageFile, read_stage

STOP = "stop"
"""The key that says when rounds end early."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineFile:
    """A pipeline, as its file has it."""

    name: str
    entries: tuple[StageFile | RoundsFile, ...]
    """In the order in which they run, >= 1."""
    choices: tuple[ChoiceFile, ...] = ()

    @property
    def rounds(self) -> tuple[RoundsFile, ...]:
        """Those that are repeated."""
        return tuple(entry for entry in self.entries if isinstance(entry, RoundsFile))

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that it has of its own: `rounds=5 stop=never anchor=fixed`."""
        stops = [STOP] if any(entry.stop for entry in self.rounds) else []
        return (*(entry.name for entry in self.rounds), *stops, *(choice.name for choice in self.choices))

    @property
    def examples(self) -> tuple[str, ...]:
        """How those keys are typed."""
        rounds = [f"{entry.name}={entry.repeat}" for entry in self.rounds]
        stops = [f"{STOP}={entry.stop.at_most:g}|never" for entry in self.rounds if entry.stop is not None]
        return (*rounds, *stops, *(f"{choice.name}={'|'.join(choice.options)}" for choice in self.choices))

    @property
    def outline(self) -> str:
        """Its stages for people, those of rounds once: `sft (labels dpo win) x 3`."""
        return " ".join(
            f"({' '.join(stage.name for stage in entry.stages)}) x {entry.repeat}" if isinstance(entry, RoundsFile) else entry.name
            for entry in self.entries
        )

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the stages where nothing is typed, in order."""
        return tuple(stage.name for stage in self.stages)

    @property
    def stages(self) -> tuple[StageFile, ...]:
        """The stages where nothing is typed."""
        return self.unrolled({})

    def unrolled(self, values: Mapping[str, object]) -> tuple[StageFile, ...]:
        """The stages in the order in which they run, rounds one after the other. `values`: those of its own keys that were typed.

        Raises:
            UserError: on a value that is none.
        """
        stages: list[StageFile] = []
        last: dict[str, str] = {}
        for entry in self.entries:
            if isinstance(entry, RoundsFile):
                rounds = typed_rounds(entry.name, values.get(entry.name, entry.repeat))
                stop = typed_stop(values[STOP], entry.stop) if entry.stop is not None and STOP in values else entry.stop
                stages += entry.unrolled(rounds, stop, last)
                last |= entry.meanings(rounds)
            else:
                stages.append(entry.meaning(last))
        return tuple(stages)


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
    check_keys(str(file), given, ("name", "stages", "choices"))
    if given.get("name") != name:
        raise UserError(f"{file}: name = {given.get('name')!r}; must be {name!r}, as the file is called.")
    return pipeline_of(f"{file}: stages", name, given.get("stages"), given.get("choices"))


def pipeline_of(where: str, name: str, stages: object, choices: object = None) -> PipelineFile:
    """The pipeline of these stages and choices, as a file has them.

    Raises:
        UserError: naming the place and the key that is wrong.
    """
    if not isinstance(stages, Mapping) or not stages:
        raise UserError(f"{where} = {stages!r}; must have a stage or more. See conf/pipeline/dpo.yaml.")
    entries: list[StageFile | RoundsFile] = []
    for key, values in stages.items():
        if is_rounds(values):
            entries.append(read_rounds(where, str(key), values, tuple(entry.name for entry in entries if isinstance(entry, StageFile))))
        else:
            entries.append(read_stage(where, str(key), values))
    names = [stage.name for entry in entries for stage in (entry.stages if isinstance(entry, RoundsFile) else [entry])]
    file = PipelineFile(name=name, entries=tuple(entries), choices=read_choices(where.replace("stages", "choices"), choices, names))
    check_rounds(where, file, names)
    check_own_keys(where, file)
    return file


def check_rounds(where: str, file: PipelineFile, names: list[str]) -> None:
    """Refuse names that would mean two things, and what cannot be run after rounds that end early.

    Raises:
        UserError: naming the stage.
    """
    if not file.rounds:
        return
    numbered = [f"{stage.name}_{number}" for entry in file.rounds for stage in entry.stages for number in range(1, 100)]
    for name in (PREVIOUS, *numbered):
        if name in names:
            raise UserError(f"{where}.{name}: a round has a stage of that name, or stands for one. Choose another.")
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{where}: two stages are called {name!r}. Choose another name for one of them.")
    for entry in file.entries[:-1]:
        if isinstance(entry, RoundsFile) and entry.stop is not None:
            raise UserError(
                f"{where}.{entry.name}.stop: rounds that may end early must come last: a stage after them could not know which round was "
                "the last. Make it a stage of each round, or leave stop out."
            )


def check_own_keys(where: str, file: PipelineFile) -> None:
    """Refuse keys of its own that would hide one of a run.

    Raises:
        UserError: naming the key.
    """
    groups, scalars = run_fields()
    for key in file.keys:
        if key in scalars or file.keys.count(key) > 1 or (key in groups and key not in [choice.name for choice in file.choices]):
            raise UserError(f"{where}: {key!r} would be a key of the pipeline, and is another one already. Choose another name.")
