"""A data file, however damaged, gives the rows that stand in it, read by another reader, or a message that names it."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alignkit.configuration import dataset_settings, packaged
from alignkit.data.source import load_examples
from alignkit.data.sources.local import Local
from alignkit.data.streams import stream_file
from alignkit.data.tables import read_file
from alignkit.errors import UserError

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder
from hostile import TEXTS, VALUES, altered, lines, mutated
from trials import fuzz, outcome

Row = dict[str, Any]
SETTING = "dataset.path"

PAIR = {"prompt": "1+1?", "chosen": " 2", "rejected": " 3", "margin": 0.1 + 0.2}
CHAT = {"prompt": [{"role": "user", "content": "why?"}], "chosen": [{"role": "assistant", "content": "so"}], "scores": [1e-12, 1]}
JSONL = lines(PAIR, {**PAIR, "prompt": "ÄÖ\u2028ü", "meta": {"a": 1}}, CHAT, {**PAIR, "meta": "x"})
CSV = 'prompt,chosen,rejected\r\n1+1?, 2, 3\r\n"a, ""b""\nc",NA,\r\nÄ\u2028,None,4\r\n'.encode()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes], Path]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def write(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def rows_of(read: Callable[[], Iterator[Row]], file: Path) -> list[Row] | str:
    """Rows, or what is said of the file."""
    found = outcome(lambda: [dict(row) for row in read()])
    if isinstance(found, UserError):
        assert str(found).startswith(f"{SETTING} = {file}"), found
        return str(found)
    return list(found)


def in_memory(file: Path) -> list[Row] | str:
    return rows_of(lambda: iter(read_file(str(file), SETTING)), file)


def streamed(file: Path) -> list[Row] | str:
    return rows_of(lambda: stream_file(str(file), SETTING).read(), file)


def whole(rows: list[Row] | str) -> list[Row] | str:
    """Rows without keys whose value is missing, which tables fill up; keys in order of their names."""
    return rows if isinstance(rows, str) else [{key: row[key] for key in sorted(row) if row[key] is not None} for row in rows]


def strictly(content: bytes) -> list[Row] | None:
    """What the standard library makes of JSON lines; None where one is no object, spells a key twice, or is no Unicode."""

    def once(pairs: list[tuple[str, Any]]) -> Row:
        assert len({key for key, _ in pairs}) == len(pairs)
        return dict(pairs)

    def no(name: str) -> None:
        raise AssertionError(name)

    rows = []
    try:
        for line in content.decode("utf-8-sig").split("\n"):
            if line.strip(" \t\r\x0b\x0c"):
                rows.append(json.loads(line.strip(" \t\r\x0b\x0c"), object_pairs_hook=once, parse_constant=no))
                assert isinstance(rows[-1], dict)
        json.dumps(rows, ensure_ascii=False).encode()
    except (AssertionError, ValueError, RecursionError):
        return None
    return rows


def same(found: list[Row] | str, expected: list[Row]) -> bool:
    """Equal to the bit and in type: 1, 1.0 and true are three values."""
    return not isinstance(found, str) and repr(whole(found)) == repr(whole(expected))


ROWS = st.lists(
    st.sampled_from([PAIR, CHAT, {"chosen": "x"}]).flatmap(altered) | st.dictionaries(TEXTS, VALUES, max_size=4), min_size=1, max_size=4
)


@fuzz(120)
@given(rows=ROWS.filter(lambda rows: all(isinstance(row, dict) for row in rows)))
@example(rows=[{"scores": [1e-12], "meta": "x"}, {"scores": [0.1 + 0.2], "meta": {}}])  # datasets: 0.0 and 0.3
@example(rows=[{"chosen": '"quoted"'}, {"chosen": [{"role": "user"}]}])  # datasets: quoted
@example(rows=[{"prompt": "2020-01-01"}])  # datasets: a datetime
@example(rows=[{"a": 2**70}])  # datasets: 1.1805916207174113e+21
def test_json_values_keep_their_type_and_their_last_digit(file: Callable[[str, bytes], Path], rows: list[Row]) -> None:
    path = file("a.jsonl", lines(*rows))
    if not any(rows):
        assert isinstance(in_memory(path), str)
        return
    assert same(in_memory(path), rows)
    assert same(streamed(path), rows)
    assert same(in_memory(file("a.json", json.dumps(rows, indent=1).encode())), rows)


@fuzz(150)
@given(content=mutated(JSONL))
@example(content=JSONL + b"\xff\xfe{}")
@example(content=b"[" * 5000)
def test_damaged_json_lines_are_read_as_they_stand_or_refused(file: Callable[[str, bytes], Path], content: bytes) -> None:
    path, expected = file("a.jsonl", content), strictly(content)
    memory, stream = in_memory(path), streamed(path)
    if expected:
        assert same(memory, expected) or (not any(expected) and isinstance(memory, str))
        assert same(stream, expected) or isinstance(memory, str)
    else:
        assert isinstance(memory, str) or content.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["), "unreadable lines were read"
        assert isinstance(stream, str)


@fuzz(60)
@given(content=mutated(gzip.compress(JSONL, mtime=0)), name=st.sampled_from(["a.jsonl.gz", "a.csv.gz"]))
def test_damaged_gzip_gives_all_rows_or_none(file: Callable[[str, bytes], Path], content: bytes, name: str) -> None:
    path = file(name, content)
    memory, stream = in_memory(path), streamed(path)
    if name == "a.jsonl.gz":
        assert isinstance(memory, str) or same(memory, strictly(JSONL) or [])
        assert whole(memory) == whole(stream)


@fuzz(80)
@given(content=mutated(json.dumps([PAIR, CHAT], indent=1).encode()))
def test_damaged_json_in_one_piece_is_read_as_it_stands_or_refused(file: Callable[[str, bytes], Path], content: bytes) -> None:
    found = in_memory(file("a.json", content))
    if not isinstance(found, str):
        try:
            expected = json.loads(content.decode("utf-8-sig"))
        except ValueError:
            expected = strictly(content)
        assert same(found, expected if isinstance(expected, list) else [expected])


@fuzz(100)
@given(content=mutated(CSV))
@example(content=b"chosen\n\n\nx\n")
@example(content=b'chosen\n"a\nb')
@example(content=b"chosen,margin\na\n")
@example(content=b"chosen\na\x00b\n")
@example(content=b"chosen\r\na\rb\r\n")
def test_damaged_csv_is_read_as_it_stands_or_refused(file: Callable[[str, bytes], Path], content: bytes) -> None:
    path = file("a.csv", content)
    memory, stream = in_memory(path), streamed(path)
    if isinstance(memory, str):
        assert isinstance(stream, str)
        return
    assert memory == stream
    _, *records = [record for record in csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True) if record]
    assert len(memory) == len(records)
    for row, record in zip(memory, records, strict=True):
        assert list(row.values()) == record, "a cell is another one, or is missing"


@fuzz(60)
@given(data=st.data())
def test_parquet_is_read_as_it_was_written_or_refused(file: Callable[[str, bytes], Path], data: st.DataObject) -> None:
    rows = [PAIR, {**PAIR, "prompt": "4"}, {**PAIR, "margin": -0.0}]
    sink = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), sink, write_page_checksum=True)
    path = file("a.parquet", data.draw(mutated(sink.getvalue())))
    memory, stream = in_memory(path), streamed(path)
    assert isinstance(memory, str) or same(memory, rows)
    assert isinstance(stream, str) or same(stream, rows)


@fuzz(60)
@given(content=mutated(JSONL))
def test_loading_gives_examples_or_one_message(file: Callable[[str, bytes], Path], content: bytes) -> None:
    settings = dataset_settings(
        {**packaged("dataset")["local"], "path": str(file("a.jsonl", content)), "max_dropped": 1.0, "validation_examples": 1}, []
    )
    loaded = outcome(lambda: load_examples(settings, Local(columns={}, ratings=[])))
    assert str(file("a.jsonl", content)) in str(loaded) if isinstance(loaded, UserError) else loaded.train
