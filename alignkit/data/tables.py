"""Rows of a local file, read by `datasets`."""

from __future__ import annotations

import csv
import difflib
import glob
import gzip
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from alignkit.data.diagnosis import explain, line_number
from alignkit.errors import UserError

FORMATS: Mapping[str, str] = {".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
"""Extension to builder of `datasets`. All but Parquet may be gzipped."""

EXACT_BYTES = 1 << 28
"""JSON that `datasets` looks at in one piece. What comes after the first piece (10 MB by itself) is bent to the types found there: 5 to
"5", a list of messages to its JSON."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A table whose rows are read one after the other."""

    place: str
    """The setting it came by and its value: `dataset.path = pairs.jsonl`."""
    columns: tuple[str, ...]
    data: Any
    """`datasets.Dataset`, memory-mapped."""
    file: Path | None = None
    """A file of JSON lines, whose line numbers can be told."""

    def __iter__(self) -> Iterator[Mapping[str, object]]:
        try:
            for batch in self.data.iter(batch_size=1000):
                for values in zip(*batch.values(), strict=True):
                    yield dict(zip(batch, values, strict=True))
        except UnicodeDecodeError as error:  # bytes become text only here
            fault = " holds text that is not UTF-8. Write it anew." if self.file is None else explain(self.file, "json", error)
            raise UserError(f"{self.place}{fault}") from error

    def where(self, index: int) -> str:
        """Row `index`, counted from 0, as a user finds it."""
        line = line_number(self.file, index) if self.file is not None else None
        return f"{self.place}, line {line}" if line is not None else f"{self.place}, row {index + 1}"


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

    The copy that `datasets` keeps is found again by what the file holds: name and time stamp, which it goes by itself, stay the same
    when a file is written twice within a clock tick or restored with its old time.

    Raises:
        UserError: when the file is absent, of another kind, empty or malformed.
    """
    place = f"{setting} = {path}"
    file = Path(path).expanduser()
    builder = builder_of(file, place)
    with quiet_datasets() as datasets:
        try:
            options = {"chunksize": EXACT_BYTES, "parse_agent_traces": False} if builder == "json" else csv_options(file, builder, place)
            data = datasets.load_dataset(
                builder,
                # A file's name is no pattern, though `datasets` takes it for one.
                data_files=glob.escape(str(file.resolve())),
                split="train",
                cache_dir=str(Path(datasets.config.HF_DATASETS_CACHE) / "alignkit" / file_digest(file)),
                **options,
            )
        except UserError:
            raise
        except Exception as error:  # `datasets` raises what its readers raise, StopIteration and gzip's errors among them
            raise UserError(f"{place}{explain(file, builder, error)}") from error
    lines = file if builder == "json" else None
    return Table(place=place, columns=tuple(data.column_names), data=data, file=lines)


def csv_options(file: Path, builder: str, place: str) -> dict[str, Any]:
    """What the reader of CSV files is told; nothing for another one."""
    if builder != "csv":
        return {}
    import datasets

    # Everything is text: left to itself pandas reads the answers "None" and "NA" as nothing, and "4" as a number.
    features = datasets.Features(dict.fromkeys(_csv_header(file, place), datasets.Value("string")))
    return {"features": features, "keep_default_na": False}


def builder_of(file: Path, place: str) -> str:
    """The reader for a file that is there, by its extension."""
    if file.is_dir():
        inside = [f"{file}/{name.name}" for name in sorted(file.iterdir()) if _extension(name) in FORMATS]
        hint = f" It holds {', '.join(inside[:5])}: type one of them." if inside else ""
        raise UserError(f"{place} is a directory; must be a file.{hint}")
    if not file.exists():
        raise UserError(f"{place}: no such file.{_neighbours(file)}")
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


def _neighbours(file: Path) -> str:
    folder = file.parent
    if not folder.is_dir():
        return f" There is no folder {folder} either."
    near = difflib.get_close_matches(file.name, [other.name for other in folder.iterdir()], n=3, cutoff=0.5)
    return f" In {folder} there is {', '.join(near)}." if near else f" Nothing in {folder} has a name like it."


def _csv_header(file: Path, place: str) -> list[str]:
    """Column names as pandas gives them."""
    with open_text(file) as lines:
        reader = csv.reader(lines)
        names = next(reader, [])
        first = next(reader, [])
    if len(first) > len(names) > 0:
        raise UserError(
            f"{place}, line 2: {len(first)} fields under {len(names)} column names. Give every column a name, and put "
            "fields that hold a comma in double quotes."
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{place}: the column name {twice[0]!r} stands twice in the first line. Rename one of them.")
    return [name or f"Unnamed: {index}" for index, name in enumerate(names)]


@contextmanager
def open_text(file: Path) -> Iterator[Any]:
    """A text file, gzipped or not, UTF-8 with or without a byte-order mark."""
    opened = gzip.open if file.suffix.lower() == ".gz" else open
    with opened(file, "rt", encoding="utf-8-sig", newline="") as lines:
        yield lines


def file_digest(file: Path) -> str:
    """32 hex digits over what a file holds."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:32]
