"""The short tables that a run and a sweep end with."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from alignkit.metrics import ACCURACIES, LOSS, MARGINS, VALIDATION
from alignkit.run_dir import Scalar
from alignkit.terminal import visible

START = "start/"
"""Prefix of a metric's value before the first step."""
SWEEP_METRICS = (VALIDATION + ACCURACIES, VALIDATION + MARGINS, VALIDATION + LOSS)
"""What jobs of a sweep are compared by, where they have it."""
BYTES = "_bytes"
"""Suffix of a size in memory."""
PLAIN_WIDTH = 200
"""Columns of a table that goes to a file or a pipe."""


def final_table(results: Mapping[str, Scalar]) -> Table:
    """Held-out metrics before the first and after the last step, then the numbers whose names have no `/`: seconds and the like."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("", "start", "end"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    for name, value in results.items():
        if name.startswith(VALIDATION):
            table.add_row(Text(visible(name)), number(results.get(START + name)), number(value))
    for name, value in results.items():
        if "/" not in name and isinstance(value, (int, float)) and not isinstance(value, bool):
            gibibytes = name.endswith(BYTES)
            table.add_row(Text(visible(name.removesuffix(BYTES))), "", f"{value / 2**30:.2f} GiB" if gibibytes else number(value))
    return table


def sweep_table(rows: Sequence[Mapping[str, object]]) -> Table:
    """One line a job: the overrides that set it apart, how it ended and what it reached."""
    changes = [dict(str(change).split("=", 1) for change in _list(row["overrides"])) for row in rows]
    keys = list(dict.fromkeys(key for job in changes for key in job))
    results = [_mapping(row["results"]) for row in rows]
    metrics = [name for name in SWEEP_METRICS if any(name in job for job in results)]
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("job", *keys, "status", *metrics):
        table.add_column(Text(visible(heading)), justify="left" if heading == "status" else "right")
    for row, job, reached in zip(rows, changes, results, strict=True):
        cells = (str(row["job"]), *(job.get(key, "") for key in keys), str(row["status"]), *(number(reached.get(name)) for name in metrics))
        table.add_row(*(Text(visible(cell)) for cell in cells))
    return table


def number(value: object) -> str:
    """Four significant digits; whole numbers whole; nothing for what is absent."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_table(table: Table) -> None:
    """On standard output: lines and colours on a terminal, plain columns elsewhere."""
    if not table.row_count:
        return
    if sys.stdout.isatty():
        Console().print(table)
    else:
        table.box = None
        Console(width=PLAIN_WIDTH).print(table)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _mapping(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}
