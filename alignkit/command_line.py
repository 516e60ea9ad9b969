"""What was typed: flags, overrides, and the jobs they mean, all of them checked before the first one starts."""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, final

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import OmegaConf

from alignkit.composition import Composer, composed, composing
from alignkit.config_checks import check_no_secret
from alignkit.configuration import check_config
from alignkit.data.tables import absence, is_there
from alignkit.errors import UserError
from alignkit.foreign_config import check_folder, check_hydra_node
from alignkit.hardware_checks import check_hardware
from alignkit.models.location import locate
from alignkit.resolution import build_losses, build_scorer, build_source
from alignkit.rollout_settings import NO_SCORER
from alignkit.settings import RunSettings
from alignkit.sweeping.search_space import ends
from alignkit.sweeping.study_plan import StudyPlan, read_study
from alignkit.sweeping.study_settings import SWEEPER, sought

MOST_JOBS = 1000
"""Jobs of one sweep; more are a mistake more often than not."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One run that was asked for."""

    changes: tuple[str, ...]
    """What sets it apart from the other jobs of its sweep: `loss.beta=0.1`."""
    overrides: tuple[str, ...] = ()
    """Of a job of a sweep: all of its overrides, as a launcher is given them."""
    settings: RunSettings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command line that is known to be good."""

    typed: tuple[str, ...]
    """Its overrides."""
    overrides: tuple[str, ...]
    """As Hydra is given them."""
    config_dir: str | None
    multirun: bool
    named: bool
    """Whether `run_dir=` was typed."""
    sweep_dir: str
    """Of a multirun: the `run_dir` that was typed, or Hydra's."""
    jobs: tuple[Job, ...]
    """All of them; of a study such as lie at the ends of what it may choose."""
    study: StudyPlan | None
    launcher: str
    """Hydra's name of what runs the jobs of a multirun."""


def precheck(argv: Sequence[str]) -> list[RunSettings]:
    """The settings of every job that a command line asks for, wholly checked.

    Raises:
        UserError: on the first mistake, wherever it is.
    """
    command = read_command(read_flags(argv))
    check_buildable(command.jobs)
    return [job.settings for job in command.jobs]


def read_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Hydra's flags and the overrides.

    Raises:
        UserError: on flags that do not exist, that run what others wrote, or that replace the config that the checks know.
    """
    for argument in argv:
        key, is_override, value = argument.partition("=")
        check_no_secret(key if is_override else "an argument", value if is_override else argument)
    parser = get_args_parser()
    parser.error = refuse_flags  # type: ignore[method-assign]
    flags = parser.parse_intermixed_args(list(argv))
    if flags.config_path or flags.config_name or flags.experimental_rerun:
        raise UserError("--config-path, --config-name and --experimental-rerun are closed. -cd DIR adds a folder with options of your own.")
    if (flags.resolve or flags.package) and not flags.cfg:
        raise UserError("--resolve and --package say how --cfg job is to show the config; alone they mean nothing.")
    if flags.config_dir is not None:
        if not flags.config_dir:
            raise UserError("--config-dir is empty; must be a folder. Type -cd DIR.")
        check_folder(Path(flags.config_dir))
    return flags


def refuse_flags(message: str) -> NoReturn:
    """In the place of argparse's own page of usage."""
    raise UserError(f"{message}. Options are typed without dashes: loss=dpo loss.beta=0.1. See --help.")


def is_question(flags: argparse.Namespace) -> bool:
    """Whether Hydra is to show something instead of running."""
    return bool(flags.help or flags.hydra_help or flags.cfg or flags.info or flags.shell_completion)


def read_command(flags: argparse.Namespace) -> Command:
    """Compose and check every job, without torch; `check_buildable` checks the rest.

    Raises:
        UserError: on the first mistake; in a sweep the message names the job.
    """
    sweep_dir, study, launcher = None, None, "basic"
    with composing(flags.config_dir) as hydra:
        composer = Composer(hydra)
        overrides = [composer.rewrite(line) for line in flags.overrides]
        check_foreign(hydra, composer, overrides, flags.config_dir)
        run_dirs = [override for override in map(composer.parse, overrides) if override.key_or_group == "run_dir"]
        for override in run_dirs if flags.multirun else map(composer.parse, overrides):
            check_one(override)
        lines: list[tuple[list[str], tuple[str, ...]]] = [(overrides, ())]
        if flags.multirun:
            own = composed(hydra, overrides, RunMode.MULTIRUN).hydra
            sweep_dir = None if run_dirs else str(own.sweep.dir)
            swept = [f"{key}={value}" for key, value in (own.sweeper.params or {}).items()] + overrides
            launcher = str(own.runtime.choices["hydra/launcher"])
            if own.runtime.choices["hydra/sweeper"] == SWEEPER:
                study = read_study(composer, swept, OmegaConf.to_container(own.sweeper))
                lines = [([*study.fixed, *end], tuple(line.lstrip("+") for line in end)) for end in ends(study.space)]
            else:
                lines = expand(composer, swept)
        jobs = []
        for number, (job_overrides, changes) in enumerate(lines):
            with naming_job(number, len(lines), changes):
                settings = check_config(composer.compose(job_overrides))
                check_paths(settings)
                check_hardware(settings)
            own = tuple(line for line in job_overrides if not line.startswith("hydra"))
            jobs.append(Job(changes=changes, overrides=own, settings=settings))
    note_repeated(composer, flags.overrides)
    if study is not None:
        metric, higher = sought(study.settings, {job.settings.loss.monitor for job in jobs})
        study = replace(study, metric=metric, higher=higher)
    return Command(
        typed=tuple(flags.overrides),
        overrides=tuple(overrides),
        config_dir=flags.config_dir,
        multirun=flags.multirun,
        named=bool(run_dirs),
        sweep_dir=sweep_dir or jobs[0].settings.run_dir,
        jobs=tuple(jobs),
        study=study,
        launcher=launcher,
    )


def note_repeated(composer: Composer, overrides: Sequence[str]) -> None:
    """Tell on standard error which of several values of a key counts: as for Hydra the last one."""
    last: dict[str, str] = {}
    for override in map(composer.parse, overrides):
        key, line = override.key_or_group, str(override.input_line)
        if key in last and last[key] != line:
            print(f"{key} was typed twice: {line} counts, {last[key]} does not.", file=sys.stderr, flush=True)
        last[key] = line


def check_foreign(hydra: Hydra, composer: Composer, overrides: Sequence[str], config_dir: str | None) -> None:
    """Refuse a `--config-dir` whose files change Hydra itself.

    Raises:
        UserError: naming the key of Hydra's.
    """
    if config_dir is None:
        return
    node = composed(hydra, overrides, RunMode.MULTIRUN).hydra
    typed = [line for line in overrides if composer.parse(line).is_hydra_override()]
    with composing(None) as packaged:
        check_hydra_node(node, composed(packaged, typed, RunMode.MULTIRUN).hydra)


@contextmanager
def naming_job(number: int, count: int, changes: Sequence[str]) -> Iterator[None]:
    """Mistakes of one job among several say whose they are."""
    try:
        yield
    except UserError as error:
        if count == 1:
            raise
        raise UserError(f"{error} (Job {number + 1} of {count}: {' '.join(changes)}; none was started.)") from None


def check_paths(settings: RunSettings) -> None:
    """Refuse paths that are known to be wrong without opening anything.

    Raises:
        UserError: on a file that does not exist and on a run directory inside the package.
    """
    paths = {
        "dataset.path": settings.dataset.path,
        "dataset.validation_path": settings.dataset.validation_path,
        "validation.benchmark_path": settings.validation.benchmark_path,
    }
    for where, path in paths.items():
        if path is not None and not is_there(Path(path)):
            raise UserError(f"{where} = {path!r}; there is no such file, seen from {os.getcwd()}.{absence(Path(path))}")
    if Path(__file__).resolve().parent in Path(settings.run_dir).expanduser().resolve().parents:
        raise UserError(f"run_dir = {settings.run_dir!r}; lies inside the installed alignkit. Choose another.")


def check_models(jobs: Sequence[Job]) -> None:
    """Refuse models that are neither here nor on a hub that can be reached. Without torch, in seconds.

    Raises:
        UserError: naming the model and what to type instead.
    """
    for number, job in enumerate(jobs):
        with naming_job(number, len(jobs), job.changes):
            locate("model.path", job.settings.model.path)
            if job.settings.reference.path is not None:
                locate("reference.path", job.settings.reference.path)


def check_buildable(jobs: Sequence[Job]) -> None:
    """Build each different loss, data source and scorer once: they check their own ranges. This is where torch is imported.

    Raises:
        UserError: naming the option.
    """
    built = []
    for number, job in enumerate(jobs):
        parts = (job.settings.loss, job.settings.dataset, job.settings.scorer, job.settings.allow_code)
        if parts not in built:
            with naming_job(number, len(jobs), job.changes):
                build_losses(job.settings.loss, job.settings.allow_code)
                build_source(job.settings.dataset, job.settings.allow_code)
                if job.settings.scorer.name != NO_SCORER:
                    build_scorer(job.settings.scorer, job.settings.allow_code)
            built.append(parts)


def expand(composer: Composer, overrides: Sequence[str]) -> list[tuple[list[str], tuple[str, ...]]]:
    """The overrides of each job, in Hydra's order, and those of them that differ between jobs.

    Raises:
        UserError: when there are more jobs than anyone means.
    """
    parsed = [composer.parse(line) for line in overrides]
    swept: dict[str, int] = {}
    for override in parsed:
        if override.is_interval_sweep():
            raise UserError(
                f"{override.key_or_group}: an interval has no values to try one after the other. Write range(0,1,0.1) or a,b,c, or have "
                f"values chosen with hydra/sweeper={SWEEPER}."
            )
        if override.is_sweep_override():
            swept[override.get_key_element()] = sum(1 for _ in itertools.islice(override.sweep_string_iterator(), MOST_JOBS + 1))
    count = math.prod(swept.values())
    if count > MOST_JOBS:
        raise UserError(f"this sweep has {count:,} jobs or more; at most {MOST_JOBS:,} are run at once. Name fewer values.")
    if count == 0:
        raise UserError("this sweep has no jobs: one of its keys has no values.")
    (jobs,) = BasicSweeper.split_arguments(parsed, None)
    return [(job, tuple(line.lstrip("+") for line in job if line.partition("=")[0] in swept)) for job in jobs]


def check_one(override: Override) -> None:
    """Refuse several values where there can be but one.

    Raises:
        UserError: on a list of values to sweep over.
    """
    if override.is_sweep_override():
        key, value = override.key_or_group, override.get_value_string()
        if key == "run_dir":
            raise UserError(f"run_dir = {value}; give one directory: each job gets its own inside it.")
        raise UserError(f"{key} = {value}; several values are a sweep: add -m. A list is written {key}=[{value}].")
