"""`python -m alignkit.label resume=DIR`: which run goes on, and whether it can. No torch."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from alignkit.composition import JUDGE
from alignkit.errors import UserError
from alignkit.label_settings import PATIENCE
from alignkit.labelling.config import Labelling, labelling_of, labelling_yaml
from alignkit.labelling.files import JUDGED, LABELS, SOURCES
from alignkit.labelling.sources import check_config
from alignkit.resuming.changes import GROUPS, with_changes
from alignkit.resuming.resumption import CODE, DEBUG, RESUME, code_typed, read_config
from alignkit.run_dir import RunDir

KEYS = ("cache_dir", "debug", "allow_code", "run_dir", "out")
"""Keys that may change. `run_dir`, because a directory may be moved; nobody types it."""
WHAT = (
    f"Devices (hardware), logging (logger), callbacks, out and how long and how much a judge may take ({', '.join(PATIENCE)}) may change; "
    "all else decides rows"
)


def may_change(path: str) -> bool:
    """Whether a setting may be another one when a label run goes on."""
    head, _, rest = path.partition(".")
    return head in GROUPS or path in KEYS or (head == JUDGE and rest.rpartition(".")[2] in PATIENCE)


def labelling_to_resume(flags: Namespace) -> tuple[RunDir, Labelling] | None:
    """The run that `resume=DIR` names, with what it began with, but for what was typed beside it and may change; None where nothing of the
    kind was typed.

    Raises:
        UserError: when what was typed would make other rows, or when there is no run of labels, or nothing left of it to do.
    """
    keys = [line.lstrip("+").partition("=")[0] for line in flags.overrides]
    if RESUME not in keys:
        return None
    named = [line for line, key in zip(flags.overrides, keys, strict=True) if key == RESUME]
    if len(named) > 1:
        raise UserError(f"{' '.join(named)}: one run goes on at a time. Type resume=DIR once.")
    others = [line for line, key in zip(flags.overrides, keys, strict=True) if key not in (RESUME, DEBUG, CODE)]
    if flags.config_dir:
        raise UserError(f"{named[0]}: one run goes on as its config.yaml says; --config-dir has no place here.")
    run = RunDir(Path(named[0].partition("=")[2].strip("'\"")).expanduser().resolve())
    check_is_of_labels(run)
    labelling = read_config(run, RESUME, code_typed(flags.overrides), labelling_of)
    labelling = placed(labelling, run)
    check_config(run, labelling)
    if others:
        whole: Mapping[str, Any] = with_changes(yaml.safe_load(labelling_yaml(labelling)), others, f"resume = {run.path}", may_change, WHAT)
        labelling = placed(labelling_of(OmegaConf.create(dict(whole))), run)
    if is_finished(run):
        raise UserError(f"resume = {run.path}: the run is finished; its labels are in {run.path / LABELS}.")
    if labelling.own.reads_stream:
        raise UserError(f"resume = {run.path}: its prompts came from standard input, which is gone. Begin another run with prompts=FILE.")
    return run, labelling


def placed(labelling: Labelling, run: RunDir) -> Labelling:
    """The same in a directory that may have been moved."""
    return dataclasses.replace(labelling, settings=dataclasses.replace(labelling.settings, run_dir=str(run.path)))


def check_is_of_labels(run: RunDir) -> None:
    """Refuse a directory of another command.

    Raises:
        UserError: naming the command that goes on with it.
    """
    if run.config.is_file() and run.metrics.is_file() and not (run.path / SOURCES).exists():
        raise UserError(f"resume = {run.path}: is no run of alignkit.label. Type python -m alignkit.train resume={run.path}")


def has_begun(run: RunDir) -> bool:
    """Whether a run has left something to go on from, and is not at its end."""
    return (run.path / SOURCES).is_file() and not is_finished(run)


def is_finished(run: RunDir) -> bool:
    """Whether a run came to its end: results are its last file."""
    return run.results.is_file() and (run.path / JUDGED).is_file()
