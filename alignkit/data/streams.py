"""Rows of a file or of a hub data set, one after the other: never all in memory, and nothing is copied to the disk."""

from __future__ import annotations

import functools
import glob
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, final

from alignkit.data.diagnosis import distinct, explain, explain_line, line_number, no_constant, numbered_lines
from alignkit.data.tables import EXACT_BYTES, builder_of, csv_options, file_digest, quiet_datasets
from alignkit.errors import UserError

TOGETHER = 1000
"""Rows that `datasets` gives at once."""
SURROGATE = b"\\ud"
"""How half a surrogate pair begins in JSON, which only a closer look tells from a whole one."""

Row = Mapping[str, object]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RowStream:
    """Rows that can be read one after the other, from the first."""

    place: str
    """The setting it came by and its value: `dataset.path = pairs.jsonl`."""
    columns: Callable[[], tuple[str, ...]]
    """Names of the columns, for which the beginning may have to be read."""
    digest: str
    """Of all that the rows hold."""
    read: Callable[[], Iterator[Row]]
    file: Path | None = None
    """A file of JSON lines, whose line numbers can be told."""

    def where(self, index: int) -> str:
        """Row `index`, counted from 0, as a user finds it."""
        line = line_number(self.file, index) if self.file is not None else None
        return f"{self.place}, line {line}" if line is not None else f"{self.place}, row {index + 1}"


def stream_file(path: str, setting: str) -> RowStream:
    """The rows of a file of JSON lines, CSV or Parquet; `setting` is the dotted path that named it.

    They are those of `tables.read_file`, but that each JSON value keeps its type.

    Raises:
        UserError: when the file is absent, of another kind, empty or malformed; also while it is read.
    """
    place = f"{setting} = {path}"
    file = Path(path).expanduser()
    builder = builder_of(file, place)
    if builder == "json":
        return _stream_lines(file, place)
    with quiet_datasets() as datasets:
        try:
            # A file's name is no pattern, though `datasets` takes it for one.
            files = glob.escape(str(file.resolve()))
            data = datasets.load_dataset(builder, data_files=files, split="train", streaming=True, **csv_options(file, builder, place))
            columns = tuple(data.column_names or next(iter(data)))
        except UserError:
            raise
        except Exception as error:  # `datasets` raises what its readers raise
            raise UserError(f"{place}{explain(file, builder, error)}") from error

    def read() -> Iterator[Row]:
        try:
            yield from rows_of(data)
        except Exception as error:
            raise UserError(f"{place}{explain(file, builder, error)}") from error

    return RowStream(place=place, columns=lambda: columns, digest=file_digest(file), read=read)


def rows_of(data: Any) -> Iterator[Row]:
    """The rows of an iterable data set of `datasets`."""
    for batch in data.iter(batch_size=TOGETHER):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _stream_lines(file: Path, place: str) -> RowStream:
    try:
        first = next(numbered_lines(file), None)
    except (OSError, EOFError) as error:
        raise UserError(f"{place}{explain(file, 'json', error)}") from error
    if first is not None and (first[1].startswith(b"[") or first[1] == b"{"):
        raise UserError(
            f"{place} is one JSON value, which must be read whole; with dataset.streaming=true each line must hold one object. "
            "Write it as JSON lines, or type dataset.streaming=false."
        )
    if first is None:
        raise UserError(f"{place} holds no rows.")

    @functools.cache
    def columns() -> tuple[str, ...]:
        return tuple(dict.fromkeys(key for row in _first_rows(file, place) for key in row))

    def read() -> Iterator[Row]:
        blank = dict.fromkeys(columns())
        for number, row in _parsed(numbered_lines(file), file, place):
            if not row.keys() <= blank.keys():
                new = next(key for key in row if key not in blank)
                raise UserError(
                    f"{place}, line {number}: the key {new!r} is in none of the lines of the first {EXACT_BYTES >> 20} MiB. Write it into "
                    "the first line, as null."
                )
            yield row if len(row) == len(blank) else {**blank, **row}

    return RowStream(place=place, columns=columns, digest=file_digest(file), read=read, file=file)


def _first_rows(file: Path, place: str) -> Iterator[Row]:
    """The rows whose keys are the columns: those that `datasets` looks at for it."""
    seen = 0

    def within(numbered: tuple[int, bytes]) -> bool:
        nonlocal seen
        seen += len(numbered[1])
        return seen <= EXACT_BYTES or seen == len(numbered[1])

    for _, row in _parsed(takewhile(within, numbered_lines(file)), file, place):
        yield row


def _parsed(lines: Iterator[tuple[int, bytes]], file: Path, place: str) -> Iterator[tuple[int, dict[str, object]]]:
    try:
        for number, line in lines:
            yield number, _object(number, line, lines, place)
    except (OSError, EOFError) as error:
        raise UserError(f"{place}{explain(file, 'json', error)}") from error


def _object(number: int, line: bytes, rest: Iterator[object], place: str) -> dict[str, object]:
    try:
        value = json.loads(line.decode(), object_pairs_hook=distinct, parse_constant=no_constant)
        is_sound = isinstance(value, dict) and SURROGATE not in line.lower()
    except (ValueError, RecursionError):
        is_sound = False
    if not is_sound and (complaint := explain_line(number, line, rest)) is not None:
        raise UserError(f"{place}{complaint}")
    row: dict[str, object] = value
    return row
