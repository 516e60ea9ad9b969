"""Folders and YAML files that somebody else may have made: nothing in them leads out, waits for ever, or is larger than it looks."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from alignkit.errors import UserError

LARGEST_FILE = 2**20
"""Bytes of a YAML file."""
MOST_NODES = 100_000
DEEPEST = 50
"""Mappings and lists inside each other."""
MOST_BRACKETS = 500
"""Of a text that Python's own parser is given: its time grows with their square."""
MOST_ENTRIES = 1_000_000
"""Of a folder that is looked through."""


def check_folder_contained(folder: Path, where: str) -> None:
    """Refuse a folder that is to be written into when anything in it leads out of it, or is no file or folder: a link to
    `~/.bashrc` under the name of a log would be written to, a pipe would be waited for.

    `where` is the setting that names the folder.

    Raises:
        UserError: naming the entry.
    """
    root = folder.resolve()
    for number, entry in enumerate(entries(root)):
        if number > MOST_ENTRIES:
            raise UserError(f"{where} = {folder}: holds more than {MOST_ENTRIES:,} files.")
        fault = fault_of(entry, root)
        if fault is not None and not is_wandb_log(entry.relative_to(root)):
            raise UserError(
                f"{where} = {folder}: {entry.relative_to(root)} {fault}, and what a command writes here is to stay here. Put the file "
                "itself in its place, or remove it, if you know who made it."
            )


def is_wandb_log(entry: Path) -> bool:
    """Whether an entry is the link that W&B makes to a log of its own, in a run directory or one inside a sweep's. Later runs write into
    other folders."""
    return entry.parts[-4:-3] == ("wandb",) and entry.parts[-2:] == ("logs", "debug-core.log")


def is_contained(file: Path, folder: Path) -> bool:
    """Whether a file is a plain one that lies in a folder, wherever links lead."""
    try:
        resolved = file.resolve()
        return resolved.is_relative_to(folder.resolve()) and stat.S_ISREG(resolved.stat().st_mode)
    except (OSError, RuntimeError, ValueError):
        return False


def is_there(file: Path) -> bool:
    """Whether a file is in its folder.

    Raises:
        UserError: when it is a link out of that folder, which would show what somebody else may not see, or no file, such as a pipe.
    """
    if not os.path.lexists(file):
        return False
    if not is_contained(file, file.parent):
        raise UserError(f"{file}: is a link out of its folder, or no file. Put the file itself in its place, or remove it.")
    return True


def entries(root: Path) -> Iterator[Path]:
    """Everything below a folder; links are named and not followed."""
    for path, folders, files in os.walk(root):
        for name in (*folders, *files):
            yield Path(path) / name


def fault_of(entry: Path, root: Path) -> str | None:
    """Why an entry of a folder is no part of it."""
    try:
        kind = entry.lstat().st_mode
        if stat.S_ISLNK(kind):
            target = entry.resolve()
            return None if target.is_relative_to(root) and target != root else "is a link that leads out of it"
    except FileNotFoundError:  # removed meanwhile
        return None
    except (OSError, RuntimeError):
        return "is a link that leads nowhere"
    return None if stat.S_ISREG(kind) or stat.S_ISDIR(kind) else "is neither a file nor a folder"


def read_yaml(file: Path, *, largest: int = LARGEST_FILE) -> Any:
    """What a YAML file holds, read event by event first, so that nothing is built before it is known to be small.

    Raises:
        UserError: naming the file and line that cannot be read.
    """
    text = checked_text(file, largest=largest)
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # dates that are none, numbers of many digits
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())[:300]}).") from None


def checked_text(file: Path, *, largest: int = LARGEST_FILE) -> str:
    """The text of a YAML file that is a plain file, small, and means no more values than it writes down.

    Raises:
        UserError: naming the file and line that cannot be read.
    """
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise UserError(f"{file}: is no file.")
        if file.stat().st_size > largest:
            raise UserError(f"{file}: is larger than {largest:,} bytes, so it is no config.")
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not UTF-8 text without control characters.") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}).") from None
    check_events(file, text)
    return text


def check_events(file: Path, text: str) -> None:
    """Refuse aliases, of which a few nested ones stand for billions of values, and values in values in values.

    Raises:
        UserError: naming the file and line.
    """
    depth = 0
    try:
        for number, event in enumerate(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))):
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.AliasEvent):
                raise UserError(f"{file}:{line}: aliases (*{event.anchor}) are not read. Write the value out.")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise UserError(f"{file}:{line}: holds more than {DEEPEST} values inside each other, so it is no config.")
            if number > MOST_NODES:
                raise UserError(f"{file}:{line}: holds more than {MOST_NODES:,} values, so it is no config.")
    except yaml.MarkedYAMLError as error:
        raise UserError(f"{file}:{fault_in(text, error)}.") from None
    except yaml.YAMLError:
        raise UserError(f"{file}: is not UTF-8 text without control characters.") from None


def fault_in(text: str, error: yaml.MarkedYAMLError) -> str:
    """Line and reason of what is no YAML: in the words of Python's own parser, which says more, where the text is short."""
    if len(text) < LARGEST_FILE // 8 and text.count("[") + text.count("{") < MOST_BRACKETS:
        try:
            for _ in yaml.parse(text, Loader=yaml.SafeLoader):
                pass
        except yaml.MarkedYAMLError as better:
            error = better
        except RecursionError:
            pass
    return f"{error.problem_mark.line + 1 if error.problem_mark else 1}: {error.problem}"
