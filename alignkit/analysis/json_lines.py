"""JSON lines as runs write them: appended row by row, so that the last one may be torn, and with keys that differ from row to row."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.json as pj  # type: ignore[import-untyped]

from alignkit.analysis.loaded import CLOCKS, STEP
from alignkit.foreign_files import is_there

_VALUE = rb"(?>-?[0-9][0-9.eE+-]*+|null)"
_NAME = rb'"[^"\\\x00-\x1f]*": '
FLAT = re.compile(rb"(?>\{" + _NAME + _VALUE + rb"(?>, " + _NAME + _VALUE + rb")*+\}\n)*+")
"""Whole lines of named numbers, as runs write them. Arrow's reader is given no others: a line that says `null` makes it crash."""
TAKEN = "run"
"""The column of frames that says whose row it is: no metric is called so."""
EXACT = 2**53
"""Whole numbers up to here are what they were as float64."""


def read_history(file: Path) -> pa.Table:
    """The history in a `metrics.jsonl`; empty where there is no file yet. Null, which stands for NaN and infinities there, is NaN."""
    content = file.read_bytes() if is_there(file) else b""
    if not content.strip():
        return history_of([])
    if FLAT.fullmatch(content):
        try:
            # Arrow's reader is several times as fast as Python's, and as exact.
            return as_history(pj.read_json(pa.BufferReader(content)))
        except pa.ArrowInvalid:
            pass
    return history_of(rows_of(content))


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file, without a torn last one; none where there is no file."""
    return rows_of(file.read_bytes()) if is_there(file) else []


def rows_of(content: bytes) -> list[dict[str, Any]]:
    """Every line that is a JSON object. Others were being written when their run was killed."""
    rows = []
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(with_bytes(row))
    return rows


def with_bytes(row: dict[str, Any]) -> dict[str, Any]:
    """The row with names and texts that can be written: JSON may spell half of a surrogate pair, which frames cannot hold."""
    return {written(name): written(value) if isinstance(value, str) else value for name, value in row.items()}


def written(text: str) -> str:
    """A text with a question mark for what has no bytes."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def history_of(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows of numbers as a history; what is no number is left out."""
    every = list(rows)
    kinds: dict[str, set[type]] = {name: {float} for name in CLOCKS}
    for row in every:
        for name, value in row.items():
            kinds.setdefault(name, set()).add(type(value))
    names = [name for name, found in kinds.items() if found & {int, float, bool} or found == {type(None)}]
    return as_history(pa.table({name: pa.array([number(row.get(name)) for row in every], pa.float64()) for name in names}))


def number(value: object) -> float | None:
    """A float; None for what is none, and for NaN and infinities, as runs write them."""
    try:
        return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
    except OverflowError:  # of a whole number
        return None


def whole(value: object) -> int | None:
    """A whole number, also of a float that is one; None for what is none."""
    found = None if isinstance(value, bool) else number(value)
    return int(found) if found is not None and found.is_integer() and abs(found) < EXACT else None


def as_history(table: pa.Table) -> pa.Table:
    """Clocks first, steps as int64, everything else as float64; columns that hold no numbers are left out, and rows without a step."""
    columns = {name: table[name] if name in table.column_names else pa.nulls(len(table)) for name in CLOCKS}
    columns |= {field.name: table[field.name] for field in table.schema if field.name not in (*CLOCKS, TAKEN) and is_number(field.type)}
    kept = pa.table({name: column.cast(pa.float64()) for name, column in columns.items()})
    steps = kept[STEP]
    kept = kept.filter(pc.and_(pc.equal(pc.floor(steps), steps), pc.less(pc.abs(steps), EXACT)))
    return kept.set_column(0, STEP, kept[STEP].cast(pa.int64()))


def is_number(kind: pa.DataType) -> bool:
    """Whether a column holds numbers, or nulls alone, which stand for numbers that are not finite."""
    return bool(pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind))
