"""Rows of a file or of a hub data set, one after the other: never all in memory, and nothing is copied to the disk."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, final

from alignkit.data.diagnosis import UNREADABLE, explain
from alignkit.data.faults import Faults, Lines, no_lines, row_name
from alignkit.data.json_rows import Row, is_one_value, read_lines
from alignkit.data.lines import check_unchanged, lines_of_rows, numbered_lines, stamp
from alignkit.data.tables import builder_of, file_digest, rows_of_file
from alignkit.errors import UserError

TOGETHER = 1000
"""Rows that `datasets` gives at once."""
KEYS_WITHIN = 1 << 28
"""Bytes of JSON lines in which each key must have come once."""


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
    lines_of: Lines = no_lines
    """The lines of a file on which rows begin."""

    def where(self, index: int) -> str:
        """Row `index`, counted from 0, as a user finds it."""
        return f"{self.place}, {row_name(index, self.lines_of([index]))}"


def stream_file(path: str, setting: str) -> RowStream:
    """The rows of a file of JSON lines, CSV or Parquet; `setting` is the dotted path that named it.

    They are those of `tables.read_file`.

    Raises:
        UserError: when the file is absent, of another kind, empty or malformed; also while it is read.
    """
    place = f"{setting} = {path}"
    file = Path(path).expanduser()
    if builder_of(file, place) == "json":
        return _stream_lines(file, place)
    rows = rows_of_file(path, setting, whole=False)
    return RowStream(place=place, columns=lambda: rows.columns, digest=file_digest(file), read=lambda: iter(rows), lines_of=rows.lines_of)


def rows_of(data: Any) -> Iterator[Row]:
    """The rows of an iterable data set of `datasets`."""
    for batch in data.iter(batch_size=TOGETHER):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _stream_lines(file: Path, place: str) -> RowStream:
    with _explained(file, place):
        seen, whole = stamp(file), is_one_value(file)
        first = next(numbered_lines(file), None)
    if first is None:
        raise UserError(f"{place} holds no rows.")
    if whole or first[1] == b"{":
        raise UserError(
            f"{place} is one JSON value, which must be read whole; with dataset.streaming=true each line must hold one object. "
            "Write it as JSON lines, or type dataset.streaming=false."
        )

    @functools.cache
    def columns() -> tuple[str, ...]:
        return tuple(dict.fromkeys(key for row in _first_rows(file, place) for key in row))

    def read() -> Iterator[Row]:
        blank = dict.fromkeys(columns())
        for number, row in read_lines(numbered_lines(file), file, place):
            if not row.keys() <= blank.keys():
                new = next(key for key in row if key not in blank)
                raise UserError(
                    f"{place}, line {number}: the key {new!r} is in none of the lines of the first {KEYS_WITHIN >> 20} MiB. Write it into "
                    "the first line, as null."
                )
            yield row if len(row) == len(blank) else {**blank, **row}
        with _explained(file, place):
            check_unchanged(file, seen)

    lines_of = functools.partial(lines_of_rows, file)
    return RowStream(place=place, columns=columns, digest=file_digest(file), read=read, lines_of=lines_of)


@contextmanager
def _explained(file: Path, place: str) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        raise UserError(f"{place}{explain(file, 'json', error)}") from error


def _first_rows(file: Path, place: str) -> Iterator[Row]:
    """The rows whose keys are the columns; what is wrong with their lines is told together."""
    seen, faults = 0, Faults()

    def within(numbered: tuple[int, bytes]) -> bool:
        nonlocal seen
        seen += len(numbered[1])
        return seen <= KEYS_WITHIN or seen == len(numbered[1])

    for _, row in read_lines(takewhile(within, numbered_lines(file)), file, place, faults):
        yield row
    faults.check(place, lambda rows: {row: row + 1 for row in rows})
