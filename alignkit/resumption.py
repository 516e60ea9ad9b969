"""`python -m alignkit.train resume=DIR`: which run goes on, and whether it can. No torch."""

from __future__ import annotations

import argparse
import dataclasses
import os
import typing
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from alignkit.command_line import check_paths
from alignkit.configuration import check_config
from alignkit.errors import UserError
from alignkit.metrics import VALIDATION
from alignkit.older_configs import completed
from alignkit.run_dir import RunDir, read_jsonl
from alignkit.settings import RunSettings

RESUME = "resume"
DEBUG = "debug"
"""The one key that may be typed beside `resume`: it changes nothing of what is computed."""


def run_to_resume(flags: argparse.Namespace) -> tuple[RunDir, RunSettings] | None:
    """The run that `resume=DIR` names, with the settings that it began with; None where nothing of the kind was typed.

    Raises:
        UserError: when more was typed, or when there is no run, none that can go on, or nothing left of it to do.
    """
    typed = dict(line.lstrip("+").partition("=")[::2] for line in flags.overrides)
    if RESUME not in typed:
        return None
    others = [line for line in flags.overrides if line.lstrip("+").partition("=")[0] not in (RESUME, DEBUG)]
    others += ["-m"] * bool(flags.multirun) + ["--config-dir"] * bool(flags.config_dir)
    if others:
        raise UserError(
            f"resume = {typed[RESUME]}: the run goes on as its config.yaml says, so that {others[0]} has no place here. Type resume=DIR "
            "alone, or begin a new run without it."
        )
    debug = typed.get(DEBUG, "false").lower()
    if debug not in ("true", "false"):
        raise UserError(f"debug = {typed[DEBUG]!r}; must be true or false.")
    run = RunDir(Path(typed[RESUME].strip("'\"")).expanduser().resolve())
    settings = read_settings(run)
    check_unfinished(run, settings)
    check_paths(settings)
    return run, dataclasses.replace(settings, debug=debug == "true")


def read_settings(run: RunDir, where: str = RESUME) -> RunSettings:
    """What a run began with, from its `config.yaml`, which is checked like anything that is typed. The directory may have been moved.
    `where` is the setting that names it.

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
    try:
        config = OmegaConf.load(run.config)
    except yaml.YAMLError as error:
        raise UserError(f"{where} = {run.path}: {run.config.name} cannot be read ({' '.join(str(error).split())}).") from None
    if not isinstance(config, DictConfig) or not config:
        raise UserError(f"{where} = {run.path}: {run.config.name} is empty: the run was stopped before it began. Begin it again elsewhere.")
    try:
        whole, lacking = completed(typing.cast(dict[str, Any], OmegaConf.to_container(config, resolve=False)))
        settings = dataclasses.replace(check_config(OmegaConf.create(whole)), run_dir=str(run.path))
        if lacking:
            print(f"{where}: {run.config.name} is of an older version; by default {', '.join(lacking)}", flush=True)
        return settings
    except UserError as error:
        raise UserError(f"{where} = {run.path}: its {run.config.name} says: {error}") from None


def check_unfinished(run: RunDir, settings: RunSettings) -> None:
    """Refuse a run that came to its end, and one that left nothing to go on from.

    Raises:
        UserError: saying which.
    """
    if run.results.is_file() and run.metrics.is_file():
        # A run that a signal stopped leaves results too.
        last = max(
            (int(row["step"] or 0) for row in read_jsonl(run.metrics) if any(name.startswith(VALIDATION) for name in row)), default=0
        )
        if last >= settings.steps:
            raise UserError(
                f"resume = {run.path}: the run is finished; all of its {settings.steps} steps are done. A longer one is another run: its "
                "schedule ends elsewhere. Begin it with its own steps and run_dir."
            )
    if not run.last_checkpoint.exists():
        why = "the run was stopped before its first checkpoint" if settings.callbacks.checkpoints else "callbacks.checkpoints was false"
        raise UserError(
            f"resume = {run.path}: {why}: there is no {run.last_checkpoint.relative_to(run.path)}. Begin it again, with another run_dir."
        )
