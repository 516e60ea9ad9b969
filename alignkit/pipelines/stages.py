"""From a command line to the stages of each pipeline that it asks for: composed like runs, and all checked before the first one starts."""

from __future__ import annotations

import hashlib
import json
import re
from argparse import Namespace
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from alignkit.command_line import check_foreign, check_one, expand, naming_job
from alignkit.composition import Composer, composing
from alignkit.config_checks import check_name
from alignkit.configuration import root_file
from alignkit.errors import UserError
from alignkit.pipelines.experiment import Experiment
from alignkit.pipelines.files import PipelineFile, read_pipeline
from alignkit.pipelines.layering import layers
from alignkit.pipelines.placeholders import PLACE, fill, rehearsal, telling_config
from alignkit.pipelines.stage_file import StageFile, Stop
from alignkit.pipelines.stage_kind import StageKind, StageSettings
from alignkit.pipelines.stage_kinds import STAGE_KINDS
from alignkit.pipelines.stage_overrides import OWN, Typed, apart, head_of, mark, unmark, without_idle

SEED = re.compile(r"\$\\?\{seed\\?\}")
"""`${seed}` in an override, also as Hydra writes it in those of a sweep."""
TIME = "runs/${now:%Y-%m-%d}/${now:%H-%M-%S}"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage, composed and checked."""

    name: str
    command: str
    overrides: tuple[str, ...]
    """In the order in which they count, the last one most, as they could be typed for its command; `{sft}` is the directory of that
    stage."""
    settings: StageSettings
    """What stands for the directories of earlier stages is still in them."""
    identity: str
    """Digest of all that decides what it computes: its settings, and the identities of the stages that it reads."""
    stop: Stop | None = None
    """What keeps the stages after it from being run."""

    @property
    def kind(self) -> StageKind:
        """What runs it."""
        return STAGE_KINDS[self.command]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Pipeline:
    """One pipeline that was asked for."""

    name: str
    arm: str
    """The arm of the experiment that it belongs to; empty where there is no experiment."""
    changes: tuple[str, ...]
    """What sets it apart from the other jobs of its sweep, or of its arm."""
    stages: tuple[Stage, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """What people know it by among the jobs."""
        return (*filter(None, [self.arm]), *self.changes)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineCommand:
    """A command line that is known to be good."""

    multirun: bool
    named: bool
    """Whether `run_dir=` was typed."""
    folder: str
    """The `run_dir` that was typed, or a default."""
    debug: bool
    pipelines: tuple[Pipeline, ...]


def read_command(flags: Namespace, experiment: Experiment | None = None) -> PipelineCommand:
    """Compose and check every stage of every job: those of an experiment, whose overrides give way to what is typed, or what is typed.

    Raises:
        UserError: on the first mistake; the message names the stage and, in a sweep, the job.
    """
    with composing(flags.config_dir) as hydra:
        reader = StageReader(Composer(hydra), flags.config_dir)
        if experiment is None:
            typed = reader.split(flags.overrides, multirun=flags.multirun)
            default = f"{TIME}-sweep" if flags.multirun else f"{TIME}-{typed[0].pipeline}-${{model.name}}"
        else:
            arms = experiment.under(flags.overrides)
            typed = [job for arm, lines in arms.items() for job in reader.split(lines, multirun=True, arm=arm)]
            default = f"{TIME}-{experiment.name}"
        files = files_of({job.pipeline for job in typed}, experiment, flags.config_dir)
        jobs = without_idle(typed, files)
        pipelines = []
        for number, job in enumerate(jobs):
            changes = tuple(unmark(line) for line in job.changes)
            with naming_job(number, len(jobs), (*filter(None, [job.arm]), *changes)):
                stages = reader.compose(job, files[job.pipeline], default)
            pipelines.append(Pipeline(name=job.pipeline, arm=job.arm, changes=changes, stages=stages))
        check_stages(pipelines)
    first = pipelines[0].stages[0].settings.run
    return PipelineCommand(
        multirun=flags.multirun or experiment is not None,
        named=any(reader.is_run_dir(line) for line in jobs[0].common),
        folder=first.run_dir,
        debug=first.debug,
        pipelines=tuple(pipelines),
    )


def files_of(names: Collection[str], experiment: Experiment | None, config_dir: str | None) -> dict[str, PipelineFile]:
    """The pipelines of these names, and those of an experiment, which may have some of its own."""
    own = {} if experiment is None else experiment.pipelines
    every = dict.fromkeys([*sorted(names), *(experiment.every_pipeline if experiment is not None else ())])
    return {name: own[name] if name in own else read_pipeline(name, config_dir) for name in every}


class StageReader:
    """Reads overrides and composes stages. Jobs that agree on a stage share one reading of it."""

    def __init__(self, composer: Composer, config_dir: str | None) -> None:
        self.composer = composer
        self.config_dir = config_dir
        self.composed: dict[tuple[str, ...], StageSettings] = {}
        self.checked: set[tuple[str, ...]] = set()

    def split(self, overrides: Sequence[str], *, multirun: bool, arm: str = "") -> list[Typed]:
        """The overrides of each job, all of one arm.

        Raises:
            UserError: on what no job may set, and on several values where there is no sweep.
        """
        marked = [mark(line) for line in overrides]
        for override in map(self.composer.parse, marked):
            if override.is_hydra_override():
                raise UserError(
                    f"{override.key_or_group}: is closed here. The jobs of a pipeline run one after the other, in this process."
                )
            if not multirun or override.key_or_group == "run_dir":
                check_one(override)
        jobs = expand(self.composer, marked) if multirun else [(marked, ())]
        return [apart(self.composer, lines, changes, arm) for lines, changes in jobs]

    def compose(self, typed: Typed, file: PipelineFile, folder: str) -> tuple[Stage, ...]:
        """The stages of one job. `folder` is the `run_dir` where none was typed.

        Raises:
            UserError: on the first mistake, naming the stage.
        """
        stages: list[Stage] = []
        for stage in file.unrolled({key: value for key, value in typed.values.items() if key in file.keys}):
            earlier = {done.name: done.identity for done in stages}
            with naming_stage(stage.name, file.name):
                check_name("command", stage.command, STAGE_KINDS)
                lines = layers(self.composer, stage, typed, file)
                lines = self.with_seed_of_round(stage, typed, lines)
                settings = self.settings(stage.command, (f"run_dir='{folder}'", *lines))
                check_stop(stage, settings)
                text = STAGE_KINDS[stage.command].config_yaml(settings)
                for place in PLACE.findall(text):
                    check_name("earlier stage", place, earlier)
                config = telling_config(fill(text, earlier))
            told = json.dumps({"command": stage.command, "config": config}, sort_keys=True, default=str)
            stages.append(
                Stage(
                    name=stage.name,
                    command=stage.command,
                    overrides=tuple(unmark(line) for line in lines if not self.is_run_dir(line)),
                    settings=settings,
                    identity=hashlib.sha256(told.encode()).hexdigest(),
                    stop=stage.stop,
                )
            )
        return tuple(stages)

    def with_seed_of_round(self, stage: StageFile, typed: Typed, lines: list[str]) -> list[str]:
        """Overrides by which a repeated stage draws other numbers than the round before, unless its own seed was typed. What follows the
        seed by `${seed}`, such as `dataset.world_seed`, stays the same in all rounds."""
        if not stage.seed_step or any(head_of(line) == "seed" for line in typed.own.get(stage.name, ())):
            return lines
        given = [override.value() for override in map(self.composer.parse, lines) if override.key_or_group == "seed"]
        seed = given[-1] if given else root_file()["seed"]
        if not isinstance(seed, int):
            seed = self.settings(stage.command, tuple(lines)).run.seed
        return [*(SEED.sub(str(seed), line) for line in lines), f"seed={seed + stage.seed_step}"]

    def settings(self, command: str, lines: tuple[str, ...]) -> StageSettings:
        """The settings that overrides of a command mean."""
        if (command, *lines) not in self.composed:
            rewritten = [given for line in lines for given in STAGE_KINDS[command].rewrite(line, self.composer)]
            files = tuple(line for line in rewritten if not line.startswith("++"))
            if files not in self.checked:
                check_foreign(self.composer.hydra, self.composer, files, self.config_dir)
                self.checked.add(files)
            self.composed[command, *lines] = STAGE_KINDS[command].read(self.composer.compose(rewritten))
        return self.composed[command, *lines]

    def is_run_dir(self, line: str) -> bool:
        """Whether an override chooses the directory."""
        return self.composer.parse(line).key_or_group == "run_dir"


def check_stop(stage: StageFile, settings: StageSettings) -> None:
    """Refuse to end rounds by a result that the stage does not have.

    Raises:
        UserError: naming those that it has.
    """
    if stage.stop is not None and stage.stop.result not in (results := STAGE_KINDS[stage.command].headline(settings)):
        raise UserError(
            f"rounds would end by {stage.stop.result!r}, and what {stage.name} measures is {', '.join(results)}. Type stop=never, or let "
            "it measure that."
        )


def check_stages(pipelines: Sequence[Pipeline]) -> None:
    """Check each different stage against what is on this machine, then build what judges its own values, which imports torch.

    Raises:
        UserError: naming the stage and, in a sweep, the job.
    """
    for what in ("places", "values"):
        checked: set[str] = set()
        for number, pipeline in enumerate(pipelines):
            first = pipeline.stages[0]
            for stage in unseen(pipeline.stages, checked):
                with naming_job(number, len(pipelines), pipeline.words), naming_stage(stage.name, pipeline.name):
                    if what == "places":
                        stage.kind.check_places(rehearsal(stage.settings, first.settings.run.model.path))
                    else:
                        stage.kind.check_values(stage.settings)


def unseen(stages: Collection[Stage], seen: set[str]) -> Iterator[Stage]:
    """Stages that are not yet among `seen`, which grows."""
    for stage in stages:
        if stage.identity not in seen:
            seen.add(stage.identity)
            yield stage


@contextmanager
def naming_stage(stage: str, pipeline: str) -> Iterator[None]:
    """Mistakes of a stage say whose they are."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{error} (Stage {stage} of {pipeline}; nothing was started. A key of one stage: {OWN}STAGE.KEY=VALUE.)") from None
