"""Rows of JSON files, to the last digit and the last quote: what stands in a file comes out, or a message says where it does not.

`datasets` guesses types that hold for a whole column. Where two rows differ it writes all of them anew: 1e-12 becomes 0.0, the text
`"4"` the number 4, and a column of dates no text at all. So JSON is read by the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

from alignkit.data.diagnosis import UNREADABLE, distinct, explain, explain_line, no_constant, with_last
from alignkit.data.faults import Faults
from alignkit.data.lines import Stamp, beginning, check_unchanged, lines_of_rows, numbered_lines, stamp, whole_bytes
from alignkit.errors import UserError

Row: TypeAlias = Mapping[str, object]

SURROGATE = b"\\ud"
"""How half a surrogate pair begins in JSON, which only a closer look tells from a whole one."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class JsonRows:
    """The rows of a JSON file, parsed each time they are asked for: memory holds one of them."""

    file: Path
    place: str
    """The setting it came by and its value."""
    columns: tuple[str, ...]
    """All keys, in the order in which they first come."""
    seen: Stamp
    """The file as its columns were read."""

    @classmethod
    def of(cls, file: Path, place: str) -> JsonRows:
        """Rows of a file of JSON lines, or of a list of objects.

        Raises:
            UserError: when some of the rows cannot be read, or there is none.
        """
        keys: dict[str, None] = {}
        rows = 0
        faults = Faults()
        try:
            seen = stamp(file)
        except OSError as error:
            raise UserError(f"{place}{explain(file, 'json', error)}") from error
        for rows, (_, row) in enumerate(_rows(file, place, faults), start=1):  # noqa: B007  how many there were
            keys.update(dict.fromkeys(row))
        faults.check(place, lambda rows: {row: row + 1 for row in rows})
        if not keys:
            raise UserError(f"{place} holds no rows{' with a value' if rows else ''}.")
        return cls(file=file, place=place, columns=tuple(keys), seen=seen)

    def __iter__(self) -> Iterator[Row]:
        return (row for _, row in self.numbered())

    def numbered(self) -> Iterator[tuple[int | None, Row]]:
        """Rows with their lines, from 1; None where rows are not lines."""
        blank = dict.fromkeys(self.columns)
        for number, row in _rows(self.file, self.place):
            yield number, row if len(row) == len(blank) else {**blank, **row}
        try:
            check_unchanged(self.file, self.seen)
        except UNREADABLE as error:
            raise UserError(f"{self.place}{explain(self.file, 'json', error)}") from error

    def lines_of(self, rows: Sequence[int]) -> dict[int, int]:
        """The lines of rows, from 0; none where rows are not lines."""
        return {} if is_one_value(self.file) else lines_of_rows(self.file, rows)


def read_lines(
    lines: Iterator[tuple[int, bytes]], file: Path, place: str, faults: Faults | None = None
) -> Iterator[tuple[int, dict[str, object]]]:
    """Objects with the numbers of their lines; `lines` are those of `file`, from the first or up to some line.

    Lines that hold something else are put into `faults` where it is given, by their numbers less one.

    Raises:
        UserError: naming the line that holds something else, and when the file cannot be read.
    """
    try:
        for number, line, is_last in with_last(lines):
            try:
                value = _loads(line)
                complaint = None if isinstance(value, dict) else explain_line(line, is_last=is_last)
            except (ValueError, RecursionError) as error:
                if number == 1 and line.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise UserError(f"{place}{explain(file, 'json', error)}") from None
                complaint = explain_line(line, is_last=is_last) or f" cannot be read: {error}."
            if complaint is None:
                yield number, value
            elif faults is not None:
                faults.add(number - 1, complaint)
            else:
                raise UserError(f"{place}, line {number}{complaint}")
    except UNREADABLE as error:
        raise UserError(f"{place}{explain(file, 'json', error)}") from error


def is_one_value(file: Path) -> bool:
    """Whether a file holds one JSON value over many lines instead of an object a line."""
    begun = beginning(file)
    if begun.startswith(b"[") or not file.name.lower().removesuffix(".gz").endswith(".json"):
        return begun.startswith(b"[")
    return begun.startswith(b"{") and not _is_whole(next(numbered_lines(file), (0, b""))[1])


def _rows(file: Path, place: str, faults: Faults | None = None) -> Iterator[tuple[int | None, dict[str, object]]]:
    try:
        whole = is_one_value(file)
    except UNREADABLE as error:
        raise UserError(f"{place}{explain(file, 'json', error)}") from error
    if whole:
        yield from ((None, row) for row in _one_value(file, place))
    else:
        yield from read_lines(numbered_lines(file), file, place, faults)


def _one_value(file: Path, place: str) -> Iterator[dict[str, object]]:
    try:
        value = _loads(whole_bytes(file))
    except (*UNREADABLE, ValueError, RecursionError) as error:
        raise UserError(f"{place}{explain(file, 'json', error)}") from error
    for number, row in enumerate(value if isinstance(value, list) else [value], start=1):
        if not isinstance(row, dict):
            raise UserError(f"{place}, element {number} of the list is no object. Each row must be one.")
        yield row


def _loads(text: bytes) -> Any:
    """A JSON value, strictly. Raises ValueError and RecursionError."""
    value = json.loads(text.decode(), object_pairs_hook=distinct, parse_constant=no_constant)
    if SURROGATE in text.lower():
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
