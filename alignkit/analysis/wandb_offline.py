"""W&B's own files, read without its server: `offline-run-<time>-<id>/run-<id>.wandb` holds the config, every logged row and the summary.

The file is a log of records (protobufs) in LevelDB's framing: blocks of 32 KiB, in which a record is one fragment or several, each behind
seven bytes: a checksum, its length and its kind. W&B ships the records' definitions but, since 0.31, no reader of the log in Python.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alignkit.analysis.frames import flatten
from alignkit.analysis.json_lines import history_of, number, read_rows, whole
from alignkit.analysis.loaded import STEP, TIME, LoadedRun
from alignkit.analysis.run_files import DONE, FAILED, UNFINISHED, natural, samples_of
from alignkit.errors import UserError
from alignkit.foreign_files import is_contained, is_there

MAGIC = b":W&B"
HEADER_BYTES = 7
"""Of the file: the magic word, its version."""
BLOCK_BYTES = 32768
FRAGMENT = struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
"""Kinds of fragments; 0 is padding up to the end of the block."""
NOT_FINITE = ("NaN", "Infinity", "-Infinity")
"""Numbers for which JSON has no word, as the server writes them."""
GLOBAL_STEP = "trainer/global_step"
"""The optimiser step of a row, as Lightning's logger writes it. W&B's own `_step` counts rows."""
OWN = "_"
"""What W&B adds to rows, configs and summaries begins with it."""
SAMPLES = "samples"
"""The table that runs log at each validation."""


def wandb_files(place: Path) -> list[Path]:
    """The `.wandb` files that a file or folder is or holds, in order of time; none where it is something else."""
    if place.is_file():
        return [place] if place.suffix == ".wandb" else []
    return list(place.glob("run-*.wandb")) or sorted(place.glob("*run-*/run-*.wandb"), key=lambda file: natural(file.parent.name))


def read_offline_runs(files: Iterable[Path]) -> Iterator[LoadedRun]:
    """The runs in these files. A run that was resumed has several, which are one run here.

    Raises:
        UserError: when a file is none of W&B's.
    """
    parts: dict[str, list[Path]] = {}
    for file in files:
        parts.setdefault(file.stem, []).append(file)
    for same in parts.values():
        yield read_offline_run(same)


def read_offline_run(files: Sequence[Path]) -> LoadedRun:
    """One run out of its files, in order of time.

    Raises:
        UserError: when a file is none of W&B's.
    """
    config: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    samples: list[Mapping[str, Any]] = []
    name, status = files[0].stem.removeprefix("run-"), UNFINISHED
    for file in files:
        new: list[dict[str, Any]] = []
        status = UNFINISHED
        for record in records(file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                name = record.run.display_name or record.run.run_id
                config |= items(record.run.config.update)
            elif kind == "config":
                config |= items(record.config.update)
            elif kind == "summary":
                summary |= items(record.summary.update)
            elif kind == "history":
                row = items(record.history.item)
                new += [row_of(row)]
                samples += read_table(file.parent / "files", row)
            elif kind == "exit":
                status = FAILED if record.exit.exit_code else DONE
        # A resumed run logs again what a killed one had logged after its last checkpoint.
        rows = [row for row in rows if not new or is_before(row, new)] + new
    return LoadedRun(
        name=name,
        path=str(files[-1].parent),
        config=config_of(config),
        results=results_of(summary),
        history=history_of(row for row in rows if row.keys() - {STEP, TIME}),
        samples=samples,
        status=status,
    )


def is_before(row: Mapping[str, Any], new: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a row of an earlier part stands: it is of an earlier step, or of the first of these and not logged again."""
    first = new[0][STEP]
    return bool(row[STEP] < first) or (row[STEP] == first and all(row.keys() != again.keys() for again in new if again[STEP] == first))


def row_keys(file: Path) -> set[tuple[float | None, frozenset[str]]]:
    """The step and the names of each row in a file, a table by its own name.

    Raises:
        UserError: when the file is none of W&B's.
    """
    found = set()
    for record in records(file):
        if record.WhichOneof("record_type") == "history":
            row = items(record.history.item)
            names = {SAMPLES if name.startswith(f"{SAMPLES}/") else name for name in row}
            logged = frozenset(name for name in names if name != "epoch" and not name.startswith((OWN, "trainer/")))
            found.add((row.get(GLOBAL_STEP), logged))
    return found


def records(file: Path) -> Iterator[Any]:
    """The records of a log. What a killed run had not written in full is left out, and so is what was damaged since.

    Raises:
        UserError: when the file is none of W&B's.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from wandb.proto import wandb_internal_pb2

    content = file.read_bytes() if is_there(file) else b""
    if not content.startswith(MAGIC):
        raise UserError(f"{file}: is no file of W&B's. Give a run-<id>.wandb, the folder that it is in, or a run directory.")
    for payload in payloads(content):
        record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
        try:
            record.ParseFromString(payload)
        except DecodeError:
            continue
        yield record


def payloads(content: bytes) -> Iterator[bytes]:
    """The records' bytes: fragments joined, padding at the end of blocks left out.

    A fragment whose checksum is wrong loses its record, and as its length may be wrong too, all up to the next block, as in LevelDB.
    """
    place = HEADER_BYTES
    begun: bytearray | None = None
    while place + FRAGMENT.size <= len(content):
        left = BLOCK_BYTES - place % BLOCK_BYTES
        fragment = fragment_at(content, place) if left >= FRAGMENT.size else None
        if fragment is None:
            place += left
            begun = begun if left < FRAGMENT.size else None
            continue
        kind, data = fragment
        place += FRAGMENT.size + len(data)
        if kind in (FULL, FIRST):
            begun = bytearray()
        if begun is not None:
            begun += data
            if kind in (FULL, LAST):
                yield bytes(begun)
                begun = None


def fragment_at(content: bytes, place: int) -> tuple[int, bytes] | None:
    """Kind and bytes of the fragment that begins at a place; None where padding begins there, or something that was damaged or cut."""
    checksum, length, kind = FRAGMENT.unpack_from(content, place)
    start = place + FRAGMENT.size
    data = content[start : start + length]
    is_sound = kind in (FULL, FIRST, MIDDLE, LAST) and len(data) == length and place % BLOCK_BYTES + FRAGMENT.size + length <= BLOCK_BYTES
    return (kind, data) if is_sound and zlib.crc32(data, zlib.crc32(bytes([kind]))) == checksum else None


def items(updates: Iterable[Any]) -> dict[str, Any]:
    """Names and values of a record. Lightning's names hold slashes and come as nested keys or not, which is the same here. What is no JSON
    was written by nobody that is read here, and is left out."""
    found = {}
    for update in updates:
        try:
            found[update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
        except (ValueError, RecursionError):
            continue
    return found


def row_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A logged row as `metrics.jsonl` has it: what W&B adds becomes `step` and `time`, or is left out; so are tables."""
    own = {STEP: whole(row.get(GLOBAL_STEP, row.get("_step"))) or 0, TIME: number(row.get("_timestamp"))}
    logged = {name: math.nan if value in NOT_FINITE else value for name, value in row.items() if not is_own(name)}
    return {name: value for name, value in logged.items() if isinstance(value, int | float)} | own


def config_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config, flat, without what W&B adds, and without what is nested more deeply than anything that it writes."""
    found: dict[str, Any] = {}
    for name, nested in config.items():
        try:
            found |= {key: value for key, value in flatten({name: nested}) if not key.startswith(OWN)}
        except RecursionError:
            continue
    return found


def results_of(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What `results.json` has: a run adds it to its summary, which also holds the last value of all that was logged."""
    own = {name: value for name, value in summary.items() if not (is_own(name) or name.startswith("train/"))}
    return {name: value for name, value in own.items() if value is None or isinstance(value, int | float | str)}


def is_own(name: str) -> bool:
    """Whether a name comes from W&B or its logger, or tells of a table."""
    return name.startswith((OWN, "trainer/", f"{SAMPLES}/")) or name in (SAMPLES, "epoch")


def read_table(folder: Path, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of `samples.jsonl` that a logged table holds; none where the row is no table, or its file is gone."""
    path = row.get(f"{SAMPLES}/path")
    file = folder / str(path)
    # The name comes out of the log, and may lead anywhere.
    table = next(iter(read_rows(file)), None) if path and is_contained(file, folder) else None
    columns, rows = (table.get(part) if table else None for part in ("columns", "data"))
    if not isinstance(columns, list) or not isinstance(rows, list) or not all(isinstance(name, str) for name in columns):
        return []
    return list(
        samples_of(dict(zip(columns, cells, strict=True)) for cells in rows if isinstance(cells, list) and len(cells) == len(columns))
    )
