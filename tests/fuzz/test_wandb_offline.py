"""W&B's log with flipped, lost and foreign bytes: a record comes out as it was written or not at all, for it has a checksum."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alignkit.analysis.wandb_offline import BLOCK_BYTES, FRAGMENT, HEADER_BYTES, payloads, read_offline_run
from alignkit.errors import UserError

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder
from hostile import VALUES, altered, mutated
from trials import fuzz, outcome

HEADER = b":W&B\xe1\xbe\x00"
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def log(*records: bytes) -> bytes:
    """A file as LevelDB's log writer frames it: records cut where a block of 32 KiB ends, which is padded where no fragment fits."""
    content = bytearray(HEADER)
    for record in records:
        begin = True
        while True:
            left = BLOCK_BYTES - len(content) % BLOCK_BYTES
            if left < FRAGMENT.size:
                content += bytes(left)
                continue
            part, record = record[: left - FRAGMENT.size], record[left - FRAGMENT.size :]
            kind = (FIRST if record else FULL) if begin else (MIDDLE if record else LAST)
            content += FRAGMENT.pack(zlib.crc32(part, zlib.crc32(bytes([kind]))), len(part), kind) + part
            begin = False
            if not record:
                break
    return bytes(content)


RECORDS = st.lists(st.binary(max_size=20) | st.sampled_from([0, 1, BLOCK_BYTES - 14, BLOCK_BYTES - 7, 70_000]).map(bytes), max_size=6)


def run_log(history: list[object]) -> bytes:
    """The log of a run with a config, rows, a summary and an end."""
    from wandb.proto import wandb_internal_pb2

    records = []

    def record() -> object:
        records.append(wandb_internal_pb2.Record())
        return records[-1]

    start = record()
    start.run.run_id, start.run.display_name = "abc", "name"
    item = start.run.config.update.add()
    item.key, item.value_json = "loss", json.dumps({"beta": 0.1})
    for row in history:
        kept = record().history
        for name, value in row.items() if isinstance(row, dict) else ():
            item = kept.item.add()
            item.nested_key.extend(str(name).encode("utf-8", "replace").decode().split("/"))
            item.value_json = json.dumps(value)
    item = record().summary.update.add()
    item.key, item.value_json = "val/loss", "0.25"
    record().exit.exit_code = 0
    return log(*(one.SerializeToString() for one in records))


ROWS: list[object] = [
    {"trainer/global_step": step, "_step": step, "_timestamp": 1.5 + step, "val/loss": 0.1 * step, "samples/path": "media/t.json"}
    for step in range(4)
]


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    (tmp_path / "files/media").mkdir(parents=True)
    (tmp_path / "files/media/t.json").write_text(json.dumps({"columns": ["step", "prompt"], "data": [[0, "p"]]}))

    def write(content: bytes) -> Path:
        (tmp_path / "run-abc.wandb").write_bytes(content)
        return tmp_path / "run-abc.wandb"

    return write


@fuzz(40)
@given(records=RECORDS)
def test_records_of_any_length_come_out_as_they_went_in(records: list[bytes]) -> None:
    assert list(payloads(log(*records))) == records


@fuzz(60)
@given(records=RECORDS, data=st.data())
def test_of_a_log_that_was_cut_the_whole_records_come_out(records: list[bytes], data: st.DataObject) -> None:
    length = data.draw(st.integers(HEADER_BYTES, len(log(*records))))
    ends = [len(log(*records[:count])) for count in range(1, len(records) + 1)]
    assert list(payloads(log(*records)[:length])) == records[: sum(end <= length for end in ends)]


@fuzz(80)
@given(records=RECORDS.filter(bool), data=st.data())
def test_of_a_damaged_log_no_record_comes_out_changed(records: list[bytes], data: st.DataObject) -> None:
    content = log(*records)
    damaged = data.draw(mutated(content[HEADER_BYTES:], most=2))
    assert set(payloads(HEADER + damaged)) <= set(records)


@fuzz(60)
@given(data=st.data())
def test_after_a_damaged_block_reading_goes_on_with_the_next(data: st.DataObject) -> None:
    """A flipped bit costs the record that it is in, and those that end in the same block behind it."""
    records = [bytes([number]) * 10_000 for number in range(12)]
    content = bytearray(log(*records))
    place = data.draw(st.integers(HEADER_BYTES, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    found = list(payloads(bytes(content)))
    ends = [len(log(*records[:count])) for count in range(1, len(records) + 1)]
    block = place // BLOCK_BYTES
    untouched = [
        record for record, end in zip(records, ends, strict=True) if end <= place or (end - len(record) - 21) // BLOCK_BYTES > block
    ]
    assert [record for record in found if record in untouched] == untouched
    assert found == [record for record in records if record in found]


@fuzz(30)
@given(data=st.data())
def test_a_damaged_run_has_rows_that_were_logged_or_is_refused(data: st.DataObject, file: Callable[[bytes], Path]) -> None:
    path = file(data.draw(mutated(run_log(ROWS))))
    run = outcome(lambda: read_offline_run([path]))
    if isinstance(run, UserError):
        assert "is no file of W&B's" in str(run)
        return
    logged = {(step, 0.1 * step) for step in range(4)}
    assert (
        set(
            zip(
                run.history["step"].to_pylist(),
                run.history.column("val/loss").to_pylist() if "val/loss" in run.history.column_names else [],
                strict=False,
            )
        )
        <= logged
    )
    assert run.results in ({}, {"val/loss": 0.25})
    assert dict(run.config) in ({}, {"loss.beta": 0.1})


@fuzz(40)
@given(
    rows=altered(ROWS)
    | st.lists(st.dictionaries(st.sampled_from(["_step", "trainer/global_step", "a", "samples/path"]), VALUES), max_size=3)
)
@example(rows=[{"samples/path": "../../../etc/passwd"}])
@example(rows=[{"trainer/global_step": "x"}, {"trainer/global_step": 1}])
@example(rows=[{"val/loss": 10**400, "trainer/global_step": 1.5}])
def test_a_log_with_right_checksums_that_says_anything_is_read(rows: object, file: Callable[[bytes], Path]) -> None:
    for written in (rows, [rows]):
        run = read_offline_run([file(run_log(written if isinstance(written, list) else []))] * 2)
        assert run.status == "done"
        assert all(set(row) <= {"step", "prompt"} for row in run.samples)
