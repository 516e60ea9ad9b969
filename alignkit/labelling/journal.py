"""Files whose rows are written batch by batch, so that a run that is killed has lost no batch but the one in flight."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from alignkit.row_files import append_text, replace_text
from alignkit.run_dir import row_in

BATCH = "batch"
"""The key of a row that numbers its batch, from 0."""


@final
class Journal:
    """One JSON object a line, the rows of a batch together. A row is of use where its whole batch is."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add the rows of one batch; they are on the disk when this returns."""
        append_text(self.path, json_lines(rows))
        with self.path.open("rb") as file:
            os.fsync(file.fileno())

    def whole_batches(self, sizes: Sequence[int]) -> list[list[dict[str, Any]]]:
        """The batches that are there whole, of those of these sizes, in order; what follows them is cut off the file."""
        batches: list[list[dict[str, Any]]] = []
        if not self.path.exists():
            return batches
        end = read = 0
        found: list[dict[str, Any]] = []
        for line in self.path.read_bytes().splitlines(keepends=True):
            row = row_in(line) if line.endswith(b"\n") else None
            if row is None or len(batches) == len(sizes) or row.get(BATCH) != len(batches):
                break
            read += len(line)
            found.append(row)
            if len(found) == sizes[len(batches)]:
                batches.append(found)
                found, end = [], read
        os.truncate(self.path, end)
        return batches


def json_lines(rows: Iterable[Mapping[str, Any]]) -> str:
    """Each row as a line."""
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all, on the disk when this returns."""
    replace_text(path, text)
    with path.open("rb") as file:
        os.fsync(file.fileno())
