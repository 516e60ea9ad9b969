"""From nested mappings to flat columns whose types say what they hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd


class _Absent:
    """What a run has that lacks a key, unlike null, which is a value."""


ABSENT = _Absent()


def flatten(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`("loss.beta", 0.1)` for each leaf; lists as tuples, which can be compared, hashed and grouped by. An empty mapping is a leaf."""
    for key, value in nested.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", hashable(value)


def hashable(value: object) -> Any:
    """Lists as tuples, mappings as tuples of pairs, at any depth."""
    if isinstance(value, list | tuple):
        return tuple(map(hashable, value))
    if isinstance(value, Mapping):
        return tuple((key, hashable(inner)) for key, inner in value.items())
    return value


def frame(rows: Sequence[Mapping[str, Any]], index: Sequence[str]) -> pd.DataFrame:
    """One row a run, the keys of all as columns, in the order in which they come."""
    names = dict.fromkeys(name for row in rows for name in row)
    labels = labelled(index)
    columns = {name: column([row.get(name, ABSENT) for row in rows], labels) for name in names}
    return pd.DataFrame(columns, index=labels, columns=list(names))


def labelled(names: Sequence[str]) -> pd.Index[Any]:
    """The index of frames with a row a run."""
    return pd.Index(pd.array(list(names), dtype="object"), name="run")


def column(values: Sequence[Any], labels: pd.Index[Any]) -> pd.Series[Any]:
    """Values of one key. Numbers are int64 where all runs have whole ones, else float64; what a run lacks is NaN, and null is None.

    A column that has a null beside other values is one of objects, so that both stay apart.
    """
    there = [value for value in values if value is not ABSENT]
    if all(isinstance(value, bool) for value in there) and len(there) == len(values):
        return pd.Series(values, index=labels, dtype=bool)
    if there and all(isinstance(value, int | float) and not isinstance(value, bool) and fits(value) for value in there):
        whole = len(there) == len(values) and all(isinstance(value, int) and abs(value) < 2**63 for value in there)
        return pd.Series([math.nan if value is ABSENT else value for value in values], index=labels, dtype="int64" if whole else "float64")
    cells = pd.Series([None] * len(values), index=labels, dtype=object)
    for place, value in enumerate(values):  # one by one: a tuple is one cell
        cells.iat[place] = math.nan if value is ABSENT else value
    return cells


def fits(value: float) -> bool:
    """Whether a number is one as float64, too; whole numbers of hundreds of digits are not."""
    try:
        float(value)
    except OverflowError:
        return False
    return True
