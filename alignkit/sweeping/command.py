"""What began a sweep, kept in its directory so that `resume=DIR` can go on with it, and who is at work there. No torch."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from alignkit.command_line import Command, Job, read_command, read_flags
from alignkit.configuration import config_yaml
from alignkit.errors import UserError
from alignkit.foreign_files import check_folder_contained
from alignkit.resuming.resumption import RESUME
from alignkit.row_files import replace_text
from alignkit.sweeping.sweep import read

GRID = "grid.json"
"""In the directory of a sweep over every combination."""
STUDY = "study.json"
"""In that of a study."""
RETYPED = ("allow_code", "cache_dir", "hydra/launcher", "hydra.launcher.")
"""What a directory cannot decide, so that it is typed again beside `resume`: whose code is run, where files go, what starts processes."""


def write_command(command: Command, folder: Path) -> None:
    """Write down what was typed, where, and what it meant."""
    config_dir = ["--config-dir", str(Path(command.config_dir).resolve())] if command.config_dir else []
    content: dict[str, object] = {"arguments": ["-m", *config_dir, *command.typed], "directory": os.getcwd()}
    if command.study is None:
        content["configs"] = [config_digest(job) for job in command.jobs]
    replace_text(folder / (GRID if command.study is None else STUDY), json.dumps(content, indent=2) + "\n")


def config_digest(job: Job) -> str:
    """Of all that a job is to do, wherever it does it."""
    settings = replace(job.settings, run_dir=".", debug=False)
    return hashlib.sha256(config_yaml(settings).encode()).hexdigest()[:32]


def sweep_to_resume(flags: Namespace) -> Path | None:
    """The directory of the sweep that `resume=DIR` names; None where nothing of the kind was typed.

    Raises:
        UserError: when something was typed beside it that would make another sweep of it.
    """
    typed = dict(line.partition("=")[::2] for line in flags.overrides)
    folder = Path(typed.get(RESUME, "").strip("'\"")).expanduser().resolve()
    if RESUME not in typed or not any((folder / name).is_file() for name in (GRID, STUDY)):
        return None
    others = [key for key in typed if not key.startswith((RESUME, *RETYPED))]
    others += ["-m"] * bool(flags.multirun) + ["--config-dir"] * bool(flags.config_dir)
    if others:
        raise UserError(
            f"resume = {folder}: a sweep goes on as it was typed, so that {others[0]} has no place here. Type resume=DIR alone."
        )
    return folder


def read_again(folder: Path, flags: Namespace) -> Command:
    """The command that began a sweep, seen from where it was typed.

    Raises:
        UserError: when it cannot be read, means something else by now, or decides what `flags` do not say again.
    """
    check_folder_contained(folder, RESUME)
    content = _content(folder)
    arguments = [str(argument) for argument in content["arguments"]]
    lines = [line for line in arguments if line.lstrip("+~ ").startswith(RETYPED)]
    if lines and lines != [line for line in flags.overrides if line.startswith(RETYPED)]:
        again = " ".join(f"'{line}'" for line in lines)
        raise UserError(f"resume = {folder}: a file does not decide {again}. If you trust it, type resume={folder} {again}")
    go_to(str(content.get("directory", "")), folder)
    command = read_command(read_flags(arguments))
    if command.study is None:
        _check_same(folder, command, content)
    return command


def go_to(directory: str, folder: Path) -> None:
    """Work where a sweep was begun, if that is still there.

    Raises:
        UserError: when files there would tell W&B which server is given the user's key: they may have come with the sweep.
    """
    if not os.path.isdir(directory):
        return
    settings = [file for name in ("wandb", ".wandb") if (file := Path(directory, name, "settings")).exists()]
    if settings and not os.path.samefile(directory, os.getcwd()):
        raise UserError(f"resume = {folder}: was begun in {directory}, where W&B has settings. If they are yours, go there first.")
    os.chdir(directory)


def _content(folder: Path) -> Any:
    file = next(file for name in (GRID, STUDY) if (file := folder / name).is_file())
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content["arguments"], list):
            raise TypeError("no list of arguments")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"resume = {folder}: {file.name} cannot be read ({error}). Begin the sweep again elsewhere.") from None
    return content


def _check_same(folder: Path, command: Command, content: Any) -> None:
    records = read(folder)
    digests = [config_digest(job) for job in command.jobs]
    if [record.overrides for record in records] != [list(job.changes) for job in command.jobs]:
        raise UserError(f"resume = {folder}: what was typed means other jobs by now than {len(records)} in sweep.json. Begin it again.")
    changed = [record for record, now, then in zip(records, digests, content.get("configs", digests), strict=True) if now != then]
    if changed:
        raise UserError(
            f"resume = {folder}: job {changed[0].job} ({changed[0].words}) would not be what it was: a file of options, a variable or "
            "alignkit has changed since. Begin the sweep again elsewhere, or go on with single jobs by resume=DIR/JOB."
        )


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a sweep's directory: no other process may run its jobs. Where there are no locks, go on without.

    Raises:
        UserError: when another one does.
    """
    with (folder / (GRID if (folder / GRID).exists() else STUDY)).open("rb") as file:
        try:
            # Ends with the process, however that ends, and with those of its jobs.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"resume = {folder}: another process runs this sweep. Wait for it, or stop it first.") from None
        except OSError:
            pass
        yield
