"""Rows of CSV files, every cell as the text that stands there, with the line on which each begins.

Readers that guess types make nothing of the answers "None" and "NA" and a number of "4", and count rows where a cell may hold many lines.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from alignkit.data.diagnosis import UNREADABLE, explain
from alignkit.data.faults import Faults
from alignkit.data.lines import MOST_LINE_BYTES, Stamp, beginning, check_unchanged, physical_lines, stamp
from alignkit.errors import UserError

QUOTING = "Fields are separated by commas; those that hold a comma or a line break stand in double quotes, and a quote in them is doubled."


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CsvRows:
    """The rows of a CSV file, parsed each time they are asked for: memory holds one of them."""

    file: Path
    place: str
    """The setting it came by and its value."""
    columns: tuple[str, ...]
    seen: Stamp
    """The file as its first line was read."""

    @classmethod
    def of(cls, file: Path, place: str, *, whole: bool) -> CsvRows:
        """Rows of a file. With `whole` all of it is looked at now, and what is wrong with its rows is told together.

        Raises:
            UserError: when it has no rows, or one is not like its first line.
        """
        seen = _stamp(file, place)
        lines = _fields(file, place)
        columns = _names(next(lines, (1, []))[1], place)
        if not columns:
            raise UserError(f"{place} holds no rows.")
        faults, numbers = Faults(), {}
        row = -1
        for row, (number, fields) in enumerate(lines):
            if len(fields) != len(columns):
                numbers[row] = number
                faults.add(row, f": {_wrong_count(len(fields), len(columns))}")
            if not whole:
                break
        faults.check(place, lambda rows: numbers)
        if row < 0:
            raise UserError(f"{place} holds column names but no rows.")
        return cls(file=file, place=place, columns=columns, seen=seen)

    def __iter__(self) -> Iterator[Mapping[str, object]]:
        return (row for _, row in self.numbered())

    def numbered(self) -> Iterator[tuple[int | None, Mapping[str, object]]]:
        """Rows with the lines, from 1, on which they begin.

        Raises:
            UserError: naming the line that is no row.
        """
        lines = _fields(self.file, self.place)
        next(lines, None)
        for number, fields in lines:
            if len(fields) != len(self.columns):
                raise UserError(f"{self.place}, line {number}: {_wrong_count(len(fields), len(self.columns))}")
            yield number, dict(zip(self.columns, fields, strict=True))
        try:
            check_unchanged(self.file, self.seen)
        except UNREADABLE as error:
            raise UserError(f"{self.place}{explain(self.file, 'csv', error)}") from error

    def lines_of(self, rows: Sequence[int]) -> dict[int, int]:
        """The lines of rows, from 0."""
        last = max(rows, default=-1)
        records = _fields(self.file, self.place)
        next(records, None)
        return {row: number for row, (number, _) in zip(range(last + 1), records, strict=False) if row in rows}


def _stamp(file: Path, place: str) -> Stamp:
    try:
        return stamp(file)
    except OSError as error:
        raise UserError(f"{place}{explain(file, 'csv', error)}") from error


def _fields(file: Path, place: str) -> Iterator[tuple[int, list[str]]]:
    """Records, empty lines left out, with the lines on which they begin."""
    csv.field_size_limit(MOST_LINE_BYTES)
    begun = 1
    try:
        if beginning(file).startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UserError(f"{place}{explain(file, 'csv', ValueError())}")
        reader = csv.reader(_decoded(file, place), strict=True)
        for fields in reader:
            if fields:
                yield begun, fields
            begun = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{place}, line {begun} {_complaint(error)}. {QUOTING}") from None
    except UNREADABLE as error:
        raise UserError(f"{place}{explain(file, 'csv', error)}") from error


def _decoded(file: Path, place: str) -> Iterator[str]:
    for number, line in physical_lines(file):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{place}, line {number} is not UTF-8 (byte {error.start + 1} of the line is 0x{line[error.start]:02x}). "
                "Save the file as UTF-8."
            ) from None


def _complaint(error: csv.Error) -> str:
    words = str(error)
    if "unexpected end of data" in words:
        return "opens a quote that is never closed: was the file cut off?"
    if "new-line character" in words:
        return "holds a carriage return outside of quotes"
    if "field limit" in words:
        return f"holds a field of more than {MOST_LINE_BYTES >> 20} MiB: is a quote missing?"
    return "has text behind a closing quote, or a quote that is not closed"


def _names(header: Sequence[str], place: str) -> tuple[str, ...]:
    twice = sorted({name for name in header if header.count(name) > 1 and name})
    if twice:
        raise UserError(f"{place}: the column name {twice[0]!r} stands twice in the first line. Rename one of them.")
    return tuple(name or f"Unnamed: {index}" for index, name in enumerate(header))


def _wrong_count(found: int, columns: int) -> str:
    return (
        f"{found} field{'' if found == 1 else 's'} under {columns} column name{'' if columns == 1 else 's'}. Give every column a "
        "name, and put fields that hold a comma or a line break in double quotes."
    )
