"""JSON lines as runs write them: appended row by row, so that the last one may be torn, and with keys that differ from row to row."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.json as pj  # type: ignore[import-untyped]

from alignkit.analysis.loaded import CLOCKS, STEP


def read_history(file: Path) -> pa.Table:
    """The history in a `metrics.jsonl`; empty where there is no file yet. Null, which stands for NaN and infinities there, is NaN."""
    content = file.read_bytes() if file.exists() else b""
    if not content.strip():
        return history_of([])
    try:
        # Arrow's reader is several times as fast as Python's, and as exact; it refuses what a line of a killed run may be.
        return as_history(pj.read_json(pa.BufferReader(content)))
    except pa.ArrowInvalid:
        return history_of(rows_of(content))


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file, without a torn last one; none where there is no file."""
    return rows_of(file.read_bytes()) if file.exists() else []


def rows_of(content: bytes) -> list[dict[str, Any]]:
    """Every line that is a JSON object. Others were being written when their run was killed."""
    rows = []
    for line in content.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def history_of(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows of numbers as a history; what is no number is left out."""
    every = list(rows)
    names = dict.fromkeys([*CLOCKS, *(name for row in every for name in row)])
    columns = {name: pa.array([number(row.get(name)) for row in every], pa.float64()) for name in names}
    return as_history(pa.table(columns))


def number(value: object) -> float | None:
    """A float; None for what is none, and for NaN and infinities, as runs write them."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def as_history(table: pa.Table) -> pa.Table:
    """Clocks first, steps as int64, everything else as float64; columns that hold no numbers are left out, and rows without a step."""
    columns = {name: table[name] if name in table.column_names else pa.nulls(len(table)) for name in CLOCKS}
    columns |= {field.name: table[field.name] for field in table.schema if field.name not in CLOCKS and is_number(field.type)}
    kept = pa.table({name: column.cast(pa.float64()) for name, column in columns.items()})
    kept = kept.filter(kept[STEP].is_valid())
    return kept.set_column(0, STEP, kept[STEP].cast(pa.int64()))


def is_number(kind: pa.DataType) -> bool:
    """Whether a column holds numbers, or nulls alone, which stand for numbers that are not finite."""
    return bool(pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind))
