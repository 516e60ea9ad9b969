"""Experiments of pipelines: `conf/experiment/cost_of_alignment.yaml` is a sweep with a question, answered by a table of what it cost."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import final

import yaml

from alignkit.config_checks import check_keys
from alignkit.configuration import conf_dir
from alignkit.errors import UserError, check_range

GROUP = "experiment"
SWEEP = "sweep"
"""The key that makes a file of that group an experiment of pipelines rather than settings of a run."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """A sweep over pipelines and what it is to say."""

    name: str
    target: float
    """Gold reward that samples are counted up to."""
    sweep: tuple[str, ...]
    """Overrides, which give way to what is typed."""


def pipeline_experiments(config_dir: str | None) -> dict[str, Path]:
    """The files by name; those of a `--config-dir` come before packaged ones of the same name."""
    folders = [conf_dir(), *([Path(config_dir)] if config_dir is not None else [])]
    files = {file.stem: file for folder in folders for file in sorted((folder / GROUP).glob("*.yaml"))}
    return {name: file for name, file in files.items() if SWEEP in (yaml.safe_load(file.read_text(encoding="utf-8-sig")) or {})}


def read_experiment(file: Path) -> Experiment:
    """One such file.

    Raises:
        UserError: when it holds something else.
    """
    given = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    check_keys(str(file), given, ("target", SWEEP))
    lines = given[SWEEP]
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise UserError(f"{file}: sweep = {lines!r}; must be a list of overrides, e.g. ['pipeline=rlhf,dpo', 'seed=0,1,2'].")
    check_range("target", given.get("target"), hint="It is the gold reward that samples are counted up to. Try 0.6.")
    return Experiment(name=file.stem, target=float(given["target"]), sweep=tuple(lines))


def unfold(flags: Namespace) -> tuple[Namespace, Experiment | None]:
    """The command that an experiment stands for: its sweep, and then what was typed, which counts more. Others stay as they are."""
    known = pipeline_experiments(flags.config_dir)
    chosen = [line.partition("=")[2] for line in flags.overrides if line.partition("=")[0] == GROUP]
    if not chosen or chosen[-1] not in known:
        return flags, None
    experiment = read_experiment(known[chosen[-1]])
    typed = [line for line in flags.overrides if line.partition("=")[0] != GROUP]
    keys = {line.lstrip("+").partition("=")[0] for line in typed}
    kept = [line for line in experiment.sweep if line.partition("=")[0] not in keys]
    return Namespace(**{**vars(flags), "multirun": True, "overrides": [*kept, *typed]}), experiment
