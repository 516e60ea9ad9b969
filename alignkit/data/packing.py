"""Which examples share a row, and which rows share a micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeAlias, final

from alignkit.batches import Layout

Row: TypeAlias = list[int]
"""Positions, in the list that was packed, of the items in one row."""


LOOKING = 4
"""Token positions of a batch that is only looked at, in those of one that is trained on."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Packing:
    """How examples are cut into micro-batches."""

    layout: Layout
    tokens: int
    """Most positions of a micro-batch; an example longer than that gets one of its own."""
    row_tokens: int | None = None
    """Packed rows are filled up to the longest example, and to this at least: for attention that costs a row's length squared.
    None for attention that does not: one row a micro-batch, in which nothing is padded."""
    multiple: int = 1
    """Packed rows are padded to a multiple of this, so that there are few shapes to compile for."""

    def for_looking(self) -> Self:
        """The same for batches that are only looked at: larger, for no activations are kept."""
        multiple = self.multiple if self.multiple == 1 else LOOKING * self.multiple
        return replace(self, tokens=LOOKING * self.tokens, multiple=multiple)


def pack_rows(lengths: Sequence[int], capacity: int) -> list[Row]:
    """First-fit decreasing: rows of at most `capacity` tokens; an item longer than that gets a row of its own.

    Deterministic: equal lengths keep their order. Needs at most 11/9 of the optimal number of rows, plus one.
    """
    rows: list[Row] = []
    free: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        for row, space in enumerate(free):
            if lengths[item] <= space:
                rows[row].append(item)
                free[row] -= lengths[item]
                break
        else:
            rows.append([item])
            free.append(max(capacity - lengths[item], 0))
    return rows


def level_rows(rows: Sequence[Row], lengths: Sequence[int]) -> list[Row]:
    """As many rows of as equal lengths as can be, longest items first into the emptiest row; the rows as they are where that is no better.

    The longest row decides how much memory a step takes.
    """
    level: list[Row] = [[] for _ in rows]
    used = [0] * len(rows)
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        emptiest = used.index(min(used))
        level[emptiest].append(item)
        used[emptiest] += lengths[item]
    longest = max((sum(lengths[item] for item in row) for row in rows), default=0)
    return level if max(used, default=0) < longest else list(rows)


def group_rows(rows: Sequence[Row], lengths: Sequence[int], tokens: int) -> list[list[Row]]:
    """Micro-batches of rows, longest rows first, each at most `tokens` positions after padding to its longest row.

    A row longer than `tokens` is a micro-batch of its own.
    """
    used = [sum(lengths[item] for item in row) for row in rows]
    groups: list[list[Row]] = []
    longest = 0
    for row in sorted(range(len(rows)), key=lambda r: -used[r]):
        if groups and (len(groups[-1]) + 1) * longest <= tokens:
            groups[-1].append(rows[row])
        else:
            groups.append([rows[row]])
            longest = used[row]
    return groups
