"""Mistakes in the rows of a table, told together: whoever has to mend a file wants to see more than the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, final

from alignkit.errors import UserError

MOST = 20
"""Mistakes that are told; of others only how many there are."""

Lines: TypeAlias = Callable[[Sequence[int]], Mapping[int, int]]
"""The lines, from 1, of rows, from 0; rows that are no lines of a file have none."""


@final
class Faults:
    """The first mistakes, and how many there are."""

    def __init__(self) -> None:
        self.first: dict[int, str] = {}
        """By row, from 0: how the message goes on after `line 4`."""
        self.count = 0

    def add(self, row: int, words: str) -> None:
        """One more. `words` begin with a space or a colon."""
        self.count += 1
        if len(self.first) < MOST:
            self.first[row] = words

    def check(self, place: str, lines: Lines) -> None:
        """Tell them, if there are any.

        Raises:
            UserError: naming each row.
        """
        if not self.count:
            return
        numbers = lines(list(self.first))
        told = [f"{row_name(row, numbers)}{words}" for row, words in self.first.items()]
        if len(told) == 1:
            raise UserError(f"{place}, {told[0]}")
        more = [f"and {self.count - len(told)} more"] if self.count > len(told) else []
        raise UserError("\n  ".join([f"{place}: {self.count} rows are wrong.", *told, *more]))


def no_lines(rows: Sequence[int]) -> Mapping[int, int]:
    """Of rows that stand in no lines."""
    return {}


def row_name(row: int, lines: Mapping[int, int]) -> str:
    """`line 4`, or where there are no lines `row 3`."""
    return f"line {lines[row]}" if row in lines else f"row {row + 1}"
