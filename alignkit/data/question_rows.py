"""Where the rows of a benchmark are, and the questions that they ask."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from alignkit.data.hub import ADVICE, read_hub
from alignkit.data.questions import Question
from alignkit.data.rows import DroppedRow, RowError
from alignkit.data.tables import FORMATS, Table, read_file
from alignkit.errors import UserError, did_you_mean
from alignkit.evaluation.tasks.task import HubPlace, Task

TRAIN = ("train",)
"""What files to train on are called."""
ABBREVIATED = re.compile(r"(?<![a-z])val(?![a-z])")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Questions:
    """What the rows of a benchmark ask."""

    questions: list[Question]
    """In the order of the files."""
    counts: Counter[str] = field(default_factory=Counter)
    """`rows` read, and those that ask nothing, by reason."""


def read_questions(task: Task, name: str, path: str | None, *, train: bool, where: str, limit: int | None = None) -> Questions:
    """The questions of a benchmark to evaluate, or those to train on.

    Args:
        name: of the task, for messages.
        path: a file, or a folder that holds one, or a folder or file named after the task among others; None reads the hub.
        where: the dotted path of the setting that `path` came by.
        limit: at most so many, the first ones.

    Raises:
        UserError: when there are none, or a row is not in the benchmark's format.
    """
    tables = list(_tables(task, name, path, train=train, where=where))
    counts: Counter[str] = Counter()
    questions: list[Question] = []
    for table, group in tables:
        if missing := task.missing(table.columns):
            raise UserError(
                f"{table.place}: lacks the column {', '.join(missing)} that {name} has; it has {', '.join(table.columns)}. "
                f"Type {where}=FILE in the benchmark's original format."
            )
        for index, row in enumerate(table):
            if limit is not None and len(questions) >= limit:
                break
            counts["rows"] += 1
            try:
                question = task.to_example(row)
            except RowError as error:
                raise UserError(f"{table.where(index)}: {error}") from None
            except DroppedRow as verdict:
                counts[verdict.reason] += 1
                continue
            questions.append(question if question.group or not group else dataclasses.replace(question, group=group))
    if not questions:
        account = ", ".join(f"{reason} {count}" for reason, count in counts.items()) or "no rows"
        raise UserError(f"{where} = {path!r}: {name} has no question there ({account}).")
    return Questions(questions=questions, counts=counts)


def has_rows(task: Task, path: str | None, *, train: bool) -> bool:
    """Whether a folder of benchmarks, or the hub, has rows of this one. Reads none of them."""
    if path is None:
        return any(_split(place, train=train) is not None for place in task.PLACES)
    return bool(_files(task, Path(path).expanduser(), train=train))


def _tables(task: Task, name: str, path: str | None, *, train: bool, where: str) -> Sequence[tuple[Table, str]]:
    """Tables with the group of their questions."""
    if path is None:
        places = [(place, split) for place in task.PLACES if (split := _split(place, train=train)) is not None]
        if not places:
            raise UserError(
                f"{where} is missing: {name} has no rows to {'train on' if train else 'evaluate'} on the hub. Type {where}=FILE."
            )
        return [(_on_hub(place, split, name, where), place.group) for place, split in places]
    folder = Path(path).expanduser()
    files = _files(task, folder, train=train)
    if not files:
        raise UserError(_nothing_there(task, name, folder, train=train, where=where))
    # A file that is one of several says by its name which part of the benchmark it holds.
    return [(read_file(str(file), where), _stem(file) if len(files) > 1 else "") for file in files]


def _on_hub(place: HubPlace, split: str, name: str, where: str) -> Table:
    try:
        return read_hub(place.hub, place.subset, split)
    except UserError as error:  # which speaks of data sets to train on
        told = str(error).replace("dataset.hub = ", "").replace(ADVICE, f"Type {where}=FILE in the benchmark's original format.")
        raise UserError(f"{where} is missing, and {name} on the hub: {told}") from error


def _split(place: HubPlace, *, train: bool) -> str | None:
    return place.train if train else place.evaluation


def _files(task: Task, path: Path, *, train: bool) -> list[Path]:
    """The files of a task at a path: the file itself, those of its folder, or the one that bears its name."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        return []
    inside = [path / folder for folder in task.FOLDERS if (path / folder).is_dir()]
    own = _data_files(inside[0] if inside else path)
    if not inside:
        named = [file for file in own if _stem(file) in task.FOLDERS]
        if named or path.resolve().name not in task.FOLDERS:
            return [] if train else named
    for split in TRAIN if train else task.SPLITS:
        if found := _of_split(own, split):
            return found
    others = [file for file in own if not any(_of_split([file], split) for split in TRAIN)]
    return [] if train else others


def _of_split(files: Sequence[Path], split: str) -> list[Path]:
    """The file that is called after a split; else those that begin so, `validation_matched`; else those with the word in their names:
    `ARC-Easy-Test`, `hellaswag_val`."""
    names = {file: ABBREVIATED.sub("validation", _stem(file).lower()) for file in files}
    exact = [file for file, name in names.items() if name == split]
    begun = [file for file, name in names.items() if name.startswith(split)]
    return exact or begun or [file for file, name in names.items() if split in re.split(r"[^a-z]+", name)]


def _data_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.is_file() and file.name.removesuffix(".gz").endswith(tuple(FORMATS)))


def _stem(file: Path) -> str:
    return file.name.partition(".")[0]


def _nothing_there(task: Task, name: str, path: Path, *, train: bool, where: str) -> str:
    if not path.exists():
        return f"{where} = {str(path)!r}: there is no such file or folder (looked at {path.absolute()})."
    found = sorted(entry.name for entry in path.iterdir())[:8]
    kinds = "train*" if train else ", ".join(f"{split}*" for split in task.SPLITS)
    meant = did_you_mean(task.FOLDERS[0], found)
    return (
        f"{where} = {str(path)!r}: no rows of {name} to {'train on' if train else 'evaluate'}; looked for a folder or file called "
        f"{' or '.join(task.FOLDERS)} with files {kinds} ({', '.join(FORMATS)}), and found {', '.join(found) or 'nothing'}.{meant}"
    )
