"""`python -m alignkit.train resume=DIR`: which run goes on, and whether it can. No torch."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from alignkit.command_line import check_paths
from alignkit.config_checks import check_file_value
from alignkit.configuration import check_config, config_yaml, nodes
from alignkit.errors import UserError
from alignkit.foreign_files import check_folder_contained, checked_text
from alignkit.hardware_checks import check_hardware
from alignkit.metrics import VALIDATION
from alignkit.resuming.changes import check_same, with_changes
from alignkit.resuming.older_configs import completed
from alignkit.resuming.slurm import noted_run
from alignkit.run_dir import RunDir, newest_first
from alignkit.settings import RunSettings

Meant = TypeVar("Meant")

RESUME = "resume"
DEBUG = "debug"
"""A key that may be typed beside `resume`: it changes nothing of what is computed."""
CODE = "allow_code"
"""Another one: whose code is run is not for a file to say, so that it is typed again."""


def run_to_resume(flags: argparse.Namespace) -> tuple[RunDir, RunSettings] | None:
    """The run that `resume=DIR` names, with the settings that it began with, but for those that were typed beside it and may change; None
    where nothing of the kind was typed.

    Raises:
        UserError: when what was typed would make another run, or when there is no run, none that can go on, or nothing left of it to do.
    """
    typed = dict(line.lstrip("+").partition("=")[::2] for line in flags.overrides)
    if RESUME not in typed:
        return None
    named = [line for line in flags.overrides if line.lstrip("+").partition("=")[0] == RESUME]
    if len(named) > 1:
        raise UserError(f"{' '.join(named)}: one run goes on at a time. Type resume=DIR once.")
    others = [line for line in flags.overrides if line.lstrip("+").partition("=")[0] not in (RESUME, DEBUG, CODE)]
    if flags.multirun or flags.config_dir:
        raise UserError(f"resume = {typed[RESUME]}: one run goes on as its config.yaml says; -m and --config-dir have no place here.")
    debug = typed.get(DEBUG, "false").lower()
    if debug not in ("true", "false"):
        raise UserError(f"debug = {typed[DEBUG]!r}; must be true or false.")
    run = RunDir(Path(typed[RESUME].strip("'\"")).expanduser().resolve())
    settings = read_settings(run, allow_code=code_typed(flags.overrides))
    check_same(run, settings)
    if others:
        whole = with_changes(yaml.safe_load(config_yaml(settings)), others, f"resume = {run.path}")
        settings = dataclasses.replace(check_config(OmegaConf.create(whole)), run_dir=str(run.path))
        check_hardware(settings)
    check_unfinished(run, settings)
    check_paths(settings)
    return run, dataclasses.replace(settings, debug=debug == "true")


def requeued_run(argv: Sequence[str]) -> tuple[RunDir, RunSettings] | None:
    """The run that this very command began in this Slurm job before it was restarted, unless nothing is left of it to do; else None.

    Raises:
        UserError: when it cannot go on.
    """
    path = noted_run(argv)
    if path is None or RESUME in [line.lstrip("+").partition("=")[0] for line in argv]:
        return None
    print(f"slurm: this job has begun {path} before it was restarted, and goes on with it", flush=True)
    run = RunDir(path)
    settings = read_settings(run, allow_code=code_typed(argv))
    check_same(run, settings)
    check_unfinished(run, settings)
    return run, settings


def code_typed(lines: Sequence[str]) -> list[str]:
    """The packages that `allow_code=` names among what was typed; the last one counts.

    Raises:
        UserError: when it is no list of names.
    """
    typed = [line.lstrip("+") for line in lines if line.lstrip("+").partition("=")[0] == CODE]
    if not typed:
        return []
    try:
        value = OverridesParser.create().parse_override(typed[-1]).value()
    except HydraException:
        value = None
    names = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) for name in names):
        raise UserError(f"{typed[-1]}: must be a list of packages, e.g. {CODE}=[my_pkg].")
    return typing.cast(list[str], names)


def read_settings(run: RunDir, where: str = RESUME, allow_code: Sequence[str] = ()) -> RunSettings:
    """What a run began with, from its `config.yaml`, which is checked like anything that is typed. The directory may have been moved, or
    be somebody else's: nothing in it leads out of it, and code that it names is run only where `allow_code` has been typed.
    `where` is the setting that names it.

    Raises:
        UserError: when there is no run, or its config is none of this version's.
    """
    return dataclasses.replace(read_config(run, where, allow_code, check_config), run_dir=str(run.path))


def read_config(run: RunDir, where: str, allow_code: Sequence[str], read: Callable[[DictConfig], Meant]) -> Meant:
    """What `read` makes of a run's `config.yaml`, which is checked as `read_settings` says.

    Raises:
        UserError: when there is no run, or its config is none of this version's.
    """
    if not run.path.is_dir():
        raise UserError(f"{where} = {run.path}: there is no such directory, seen from {os.getcwd()}.")
    if not run.config.is_file():
        inside = sorted(config.parent for config in run.path.glob(f"*/{run.config.name}"))
        named = "Type the directory that a run's last line named."
        hint = f"Type one of those inside it, such as {where}={inside[0]}." if inside else named
        raise UserError(f"{where} = {run.path}: holds no run of its own, for it has no {run.config.name}. {hint}")
    check_folder_contained(run.path, where)
    try:
        checked_text(run.config)
    except UserError as error:
        raise UserError(f"{where} = {run.path}: its {run.config.name} cannot be read ({error})") from None
    try:
        config = OmegaConf.load(run.config)
    except yaml.YAMLError as error:
        raise UserError(f"{where} = {run.path}: {run.config.name} cannot be read ({' '.join(str(error).split())}).") from None
    if not isinstance(config, DictConfig) or not config:
        raise UserError(f"{where} = {run.path}: {run.config.name} is empty: the run was stopped before it began. Begin it again elsewhere.")
    try:
        for path, value in nodes(OmegaConf.to_container(config, resolve=False)):
            if isinstance(value, str):
                check_file_value(path, value)
        check_code_typed(config, allow_code)
        whole, lacking = completed(typing.cast(dict[str, Any], OmegaConf.to_container(config, resolve=False)))
        meant = read(OmegaConf.create(whole))
        if lacking:
            print(f"{where}: {run.config.name} is of an older version; by default {', '.join(lacking)}", flush=True)
        return meant
    except UserError as error:
        raise UserError(f"{where} = {run.path}: its {run.config.name} says: {error}") from None


def check_code_typed(config: DictConfig, allow_code: Sequence[str]) -> None:
    """Refuse a config that allows code which the user has not.

    Raises:
        UserError: with what to type when the code is trusted.
    """
    wanted = OmegaConf.to_container(config, resolve=False).get(CODE) or []  # type: ignore[union-attr]
    if not isinstance(wanted, list) or not set(map(str, wanted)) <= set(allow_code):
        names = ",".join(map(str, wanted)) if isinstance(wanted, list) else str(wanted)
        raise UserError(
            f"{CODE} = [{names}]: a file cannot allow code. If you trust it, type {CODE}=[{names}] again, beside the directory."
        )


def steps_of_results(run: RunDir) -> int:
    """After how many steps the newest results were written; 0 where they do not say."""
    try:
        steps = json.loads(run.results.read_text(encoding="utf-8"))["steps"]
        return int(steps)
    except (OSError, ValueError, TypeError, KeyError):
        return 0


def check_unfinished(run: RunDir, settings: RunSettings) -> None:
    """Refuse a run that came to its end, and one that left nothing to go on from.

    Raises:
        UserError: saying which.
    """
    if run.results.is_file() and run.metrics.is_file():
        # A run that a signal stopped leaves results too, and its last files may be missing.
        validated = (row for row in newest_first(run.metrics) if any(name.startswith(VALIDATION) for name in row))
        last = next((int(row["step"] or 0) for row in validated), 0)
        if min(last, steps_of_results(run)) >= settings.steps:
            raise UserError(
                f"resume = {run.path}: the run is finished; all of its {settings.steps} steps are done. Type steps= beside it for more, of "
                "which a schedule takes the rest that a run of so many steps would have."
            )
    if not (settings.callbacks.checkpoints or run.last_checkpoint.exists()):
        raise UserError(
            f"resume = {run.path}: callbacks.checkpoints was false, so that nothing was saved to go on from. Begin it again elsewhere."
        )
