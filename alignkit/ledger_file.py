"""The ledger of a run: what each training pair was worth each time it was trained on, as records of one size in a file that grows."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, final

import numpy as np

from alignkit.row_files import replace_text

FORMAT = 1
VISITS, ABOUT, SUSPECTS = "visits.bin", "ledger.json", "suspects.jsonl"
MOST_SOURCES = 255
"""Parts of a mixture that are told apart."""

Records: TypeAlias = np.ndarray[Any, np.dtype[Any]]


def record_type(*, implicit: bool) -> np.dtype[Any]:
    """A visit: one pair in one optimiser step. 19 bytes, 23 with `implicit`.

    `key`, the pair's place among the loaded training examples; `step`, the number, from 1, of the update that the pair was part of;
    `epoch`, from 0; `source`, a place in the manifest's `sources`; before that update `margin`, chosen minus rejected reward of the head,
    or of the policy where there is no head, NaN of an example that is no pair, and `loss`, the pair's weighted loss, NaN where it has
    none of its own; `implicit`, the margin of the policy beside a head.
    """
    numbers = [("margin", "<f4"), *([("implicit", "<f4")] if implicit else []), ("loss", "<f4")]
    return np.dtype([("key", "<i4"), ("step", "<i4"), ("epoch", "<u2"), ("source", "u1"), *numbers])


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerFile:
    """`ledger/` of a run: `visits.bin`, the records in order of step and key, and `ledger.json`, which says how to read them."""

    folder: Path

    @property
    def visits(self) -> Path:
        """The records."""
        return self.folder / VISITS

    @property
    def about(self) -> Path:
        """The manifest."""
        return self.folder / ABOUT

    @property
    def suspects(self) -> Path:
        """The most suspicious pairs with their texts, one JSON object a pair, written when a run ends."""
        return self.folder / SUSPECTS

    def begin(self, *, implicit: bool, sources: Sequence[str]) -> None:
        """Write the manifest, whose records are those of `record_type`. Visits that are there stay. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        about = {"format": FORMAT, "columns": _named(record_type(implicit=implicit)), "sources": list(sources)}
        replace_text(self.about, json.dumps(about, indent=2, ensure_ascii=False) + "\n")

    def append(self, records: Records) -> None:
        """Add records: all of them or none, and on the disk when this returns. Raises OSError."""
        descriptor = os.open(self.visits, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            whole = os.fstat(descriptor).st_size // records.itemsize * records.itemsize
            os.ftruncate(descriptor, whole)  # what a process that was killed left of a record
            left = memoryview(records.tobytes())
            try:
                while left:
                    left = left[os.write(descriptor, left) :]
                os.fsync(descriptor)
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, whole)
                raise
        finally:
            os.close(descriptor)

    def forget_after(self, step: int) -> None:
        """Leave out the visits of later steps, of which a resumed run writes its own. Raises OSError or ValueError."""
        if not self.visits.exists():
            return
        records = self.read()
        kept = int(np.searchsorted(records["step"], step, side="right"))
        os.truncate(self.visits, kept * records.itemsize)

    def read(self) -> Records:
        """All records; none where there is no file. Raises OSError, or ValueError on a manifest that is not one of ours."""
        kind = self.kind()
        if not self.visits.exists():
            return np.empty(0, kind)
        count = self.visits.stat().st_size // kind.itemsize
        return np.fromfile(self.visits, kind, count=count)

    def kind(self) -> np.dtype[Any]:
        """The type of a record. Raises as `read` does."""
        found = self._manifest().get("columns")
        for kind in (record_type(implicit=False), record_type(implicit=True)):
            if found == _named(kind):
                return kind
        raise ValueError(f"{self.about}: is no manifest of a ledger")

    def sources(self) -> list[str]:
        """Names of the parts of a mixture; one empty text outside of mixtures. Raises as `read` does."""
        found = self._manifest().get("sources")
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise ValueError(f"{self.about}: is no manifest of a ledger")
        return found

    def _manifest(self) -> dict[str, Any]:
        try:
            found = json.loads(self.about.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.about}: is not JSON ({error})") from None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"{self.about}: is no manifest of a ledger of format {FORMAT}")
        return found


def _named(kind: np.dtype[Any]) -> list[list[str]]:
    return [[name, field[0].str] for name, field in (kind.fields or {}).items()]
