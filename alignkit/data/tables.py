"""Rows of a local file, whatever its kind."""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from alignkit.data.csv_rows import CsvRows
from alignkit.data.faults import row_name
from alignkit.data.json_rows import JsonRows
from alignkit.data.parquet_rows import ParquetRows
from alignkit.errors import UserError

FORMATS: Mapping[str, str] = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
"""Extension to the kind of reader. All but Parquet may be gzipped."""
FileRows = (JsonRows, CsvRows, ParquetRows)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table whose rows are read one after the other."""

    place: str
    """The setting it came by and its value: `dataset.path = pairs.jsonl`."""
    columns: tuple[str, ...]
    data: Any
    """The rows of a file, or `datasets.Dataset`, memory-mapped, of the hub."""

    def __iter__(self) -> Iterator[Mapping[str, object]]:
        return (row for _, row in self.numbered())

    def numbered(self) -> Iterator[tuple[int | None, Mapping[str, object]]]:
        """Rows with the lines of the file, from 1, on which they begin; None where rows are no lines."""
        if isinstance(self.data, FileRows):
            yield from self.data.numbered()
            return
        try:
            for batch in self.data.iter(batch_size=1000):
                for values in zip(*batch.values(), strict=True):
                    yield None, dict(zip(batch, values, strict=True))
        except UnicodeDecodeError as error:  # bytes become text only here
            raise UserError(f"{self.place} holds text that is not UTF-8. Write it anew.") from error

    def lines_of(self, rows: Sequence[int]) -> Mapping[int, int]:
        """The lines, from 1, of rows, from 0; none where rows are no lines."""
        return self.data.lines_of(rows) if isinstance(self.data, FileRows) else {}

    def where(self, index: int) -> str:
        """Row `index`, counted from 0, as a user finds it."""
        return f"{self.place}, {row_name(index, self.lines_of([index]))}"


@contextmanager
def quiet_datasets() -> Iterator[Any]:
    """The `datasets` library without telemetry, and for as long as the context lasts without progress bars and warnings.

    Imported here and not above: a run looks up its source's options long before it reads data, and the import takes a second.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    level, silent = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield datasets
    finally:
        datasets.logging.set_verbosity(level)
        if not silent:
            datasets.enable_progress_bars()


def read_file(path: str, setting: str) -> Table:
    """The rows of a JSONL, JSON, CSV or Parquet file; `setting` is the dotted path that named it.

    Raises:
        UserError: when the file is absent, of another kind, empty or malformed.
    """
    rows = rows_of_file(path, setting, whole=True)
    return Table(place=rows.place, columns=rows.columns, data=rows)


def rows_of_file(path: str, setting: str, *, whole: bool) -> JsonRows | CsvRows | ParquetRows:
    """The rows of a file. With `whole` all mistakes in lines of text are looked for now; else they are told when they are met.

    Raises:
        UserError: as `read_file` does.
    """
    place = f"{setting} = {path}"
    file = Path(path).expanduser()
    builder = builder_of(file, place)
    if builder == "json":
        return JsonRows.of(file, place)
    return CsvRows.of(file, place, whole=whole) if builder == "csv" else ParquetRows.of(file, place)


def builder_of(file: Path, place: str) -> str:
    """The reader for a file that is there, by its extension."""
    if not is_there(file):
        raise UserError(f"{place}: no such file.{absence(file)}")
    if file.is_dir():
        inside = [f"{file}/{name.name}" for name in _inside(file) if _extension(name) in FORMATS]
        hint = f" It holds {', '.join(inside[:5])}: type one of them." if inside else ""
        raise UserError(f"{place} is a directory; must be a file.{hint}")
    if not file.is_file():
        raise UserError(f"{place} is not a regular file; must be a JSONL, JSON, CSV or Parquet file.")
    if _extension(file) not in FORMATS:
        raise UserError(
            f"{place}: unknown kind of file; the name must end in .jsonl, .json, .csv (each of them also with .gz) or .parquet. "
            "Convert or rename it."
        )
    return FORMATS[_extension(file)]


def _extension(file: Path) -> str:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes[-1:] == [".gz"] and suffixes[-2:-1] != [".parquet"]:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _inside(folder: Path) -> list[Path]:
    """What is in a folder, as far as that may be known."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def is_there(file: Path) -> bool:
    """Whether there is something of that name; there is not where no file system would take it."""
    try:
        return file.expanduser().exists()
    except (OSError, RuntimeError):  # a name that is too long, the home of nobody
        return False


def absence(file: Path) -> str:
    """What there is instead of a file, as a sentence."""
    if not os.access(file.parent, os.X_OK) and file.parent.is_dir():
        return f" {file.parent} may not be looked into."
    if any(mark in file.name for mark in "*?["):
        return " One file is read; patterns are not filled in. Type its name."
    if os.path.islink(file):
        return " It is a link that leads nowhere."
    folder = file.parent
    if not is_there(folder) or not folder.is_dir():
        return f" There is no folder {folder} either."
    near = difflib.get_close_matches(file.name[:200], [other.name for other in _inside(folder)], n=3, cutoff=0.5)
    return f" In {folder} there is {', '.join(near)}." if near else f" Nothing in {folder} has a name like it."


def file_digest(file: Path) -> str:
    """32 hex digits over what a file holds."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:32]
