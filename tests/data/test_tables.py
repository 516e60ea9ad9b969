"""Local files: what is read, and what is said about those that cannot be."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from alignkit.data.tables import Table, quiet_datasets, read_file
from alignkit.errors import UserError

ROWS = [{"prompt": "p", "chosen": "a"}, {"prompt": "q", "chosen": "b"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
Write = Callable[[str, bytes | str], Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to(name: str, content: bytes | str) -> Path:
        path = tmp_path / "data" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to


def read(path: Path) -> Table:
    return read_file(str(path), "dataset.path")


def complaint(path: Path) -> str:
    """The message without the part that every message begins with."""
    with pytest.raises(UserError) as caught:
        list(read(path))
    place = f"dataset.path = {path}"
    assert str(caught.value).startswith(place)
    return str(caught.value).removeprefix(place)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES.encode()),
        ("a.ndjson", LINES.encode()),
        ("a.JSONL", LINES.encode()),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("blank-lines.jsonl", LINES.replace("\n", "\n\n \n").encode()),
        ("crlf.jsonl", LINES.replace("\n", "\r\n").encode()),
        ("bom.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
        ("array.jsonl", json.dumps(ROWS).encode()),
        ("a.json", json.dumps(ROWS, indent=2).encode()),
        ("a.json.gz", gzip.compress(json.dumps(ROWS).encode(), mtime=0)),
        ("a.csv", b"prompt,chosen\np,a\nq,b\n"),
        ("bom.csv", b"\xef\xbb\xbfprompt,chosen\np,a\nq,b\n"),
        ("a.csv.gz", gzip.compress(b"prompt,chosen\np,a\nq,b\n", mtime=0)),
        ("we[i]rd na*me?.jsonl", LINES.encode()),
    ],
)
def test_every_kind_of_file_gives_the_same_rows(write: Write, name: str, content: bytes) -> None:
    table = read(write(name, content))
    assert table.columns == ("prompt", "chosen")
    assert list(table) == ROWS


def test_parquet_is_read_with_whatever_text_type_it_has(tmp_path: Path) -> None:
    texts = pyarrow.table(
        {"prompt": pyarrow.array(["p", "q"]).dictionary_encode(), "chosen": pyarrow.array(["a", "b"], pyarrow.large_string())}
    )
    pyarrow.parquet.write_table(texts, tmp_path / "a.parquet")
    assert list(read(tmp_path / "a.parquet")) == ROWS


def test_cells_of_csv_files_are_the_text_that_stands_there(write: Write) -> None:
    table = read(write("a.csv", ",chosen,n\n0,None,1\n1,4,\n2,True,x\n"))
    assert [row["chosen"] for row in table] == ["None", "4", "True"]
    assert [row["n"] for row in table] == ["1", "", "x"]


def test_mixed_values_stay_what_they_are(write: Write) -> None:
    table = read(write("a.jsonl", '{"a": "x"}\n{"a": 5}\n{"a": [{"role": "user", "content": "x"}]}\n'))
    assert [row["a"] for row in table] == ["x", 5, [{"role": "user", "content": "x"}]]


def test_messages_may_have_keys_that_others_lack(write: Write) -> None:
    plain, named = [{"role": "user", "content": "x"}], [{"role": "user", "content": "y", "name": "z"}]
    table = read(write("a.jsonl", json.dumps({"a": plain}) + "\n" + json.dumps({"a": named}) + "\n"))
    assert [row["a"] for row in table] == [plain, named]


def test_values_keep_their_type_behind_the_first_ten_megabytes(write: Write) -> None:
    table = read(write("a.jsonl", ('{"a": "' + "x" * 2000 + '"}\n') * 6000 + '{"a": 5}\n'))
    assert list(table)[-1] == {"a": 5}


def test_unicode_separators_do_not_end_a_line(write: Write) -> None:
    assert [row["a"] for row in read(write("a.jsonl", '{"a": "x\u2028y\u0085z"}\n'))] == ["x\u2028y\u0085z"]


def test_a_file_that_changed_is_read_again_even_under_its_old_time_stamp(write: Write) -> None:
    path = write("a.jsonl", '{"a": "old"}\n')
    stamp = path.stat()
    assert [row["a"] for row in read(path)] == ["old"]
    write("a.jsonl", '{"a": "new"}\n')
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert [row["a"] for row in read(path)] == ["new"]


def test_rows_are_found_by_line_where_lines_are_rows(write: Write) -> None:
    lines = read(write("a.jsonl", "\n" + LINES.replace("\n", "\n\n")))
    assert [lines.where(0), lines.where(1)] == [f"{lines.place}, line 2", f"{lines.place}, line 4"]
    array = read(write("a.json", "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]"))
    assert [array.where(0), array.where(1)] == [f"{array.place}, row 1", f"{array.place}, row 2"]
    table = read(write("a.csv", "a,b\n1,2\n"))
    assert table.where(0) == f"{table.place}, line 2"


def test_the_library_is_quiet_only_while_it_is_used() -> None:
    before = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    with quiet_datasets() as inside:
        assert inside.are_progress_bars_disabled()
        assert inside.config.HF_UPDATE_DOWNLOAD_COUNTS is False
    assert (datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()) == before


def test_a_missing_file_is_told_with_those_that_have_its_like_name(write: Write, tmp_path: Path) -> None:
    folder = write("train.jsonl", LINES).parent
    assert complaint(folder / "tain.jsonl") == f": no such file. In {folder} there is train.jsonl."
    assert complaint(folder / "zzz") == f": no such file. Nothing in {folder} has a name like it."
    assert complaint(tmp_path / "nowhere" / "a.jsonl") == f": no such file. There is no folder {tmp_path / 'nowhere'} either."


def test_a_directory_is_told_with_the_files_it_holds(write: Write) -> None:
    path = write("train.jsonl", LINES)
    assert complaint(path.parent) == f" is a directory; must be a file. It holds {path}: type one of them."


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    assert complaint(tmp_path / "a.jsonl") == " is not a regular file; must be a JSONL, JSON, CSV or Parquet file."


@pytest.mark.parametrize("name", ["a.txt", "a", "a.jsonl.zip", "a.parquet.gz", "a.gz"])
def test_an_unknown_extension_is_told_with_those_that_are_known(write: Write, name: str) -> None:
    assert complaint(write(name, LINES)) == (
        ": unknown kind of file; the name must end in .jsonl, .json, .csv (each of them also with .gz) or .parquet. Convert or rename it."
    )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", "", " holds no rows."),
        ("a.jsonl", "\n \n\n", " holds no rows."),
        ("a.json", "[]", " holds no rows."),
        ("a.csv", "", " holds no rows."),
        ("a.csv", "prompt,chosen\n", " holds column names but no rows."),
        (
            "a.jsonl",
            LINES + '\n{"a": oops}\n' + LINES,
            ', line 4 is not JSON (Expecting value at column 7): {"a": oops}. Each line must hold one JSON object. Correct the line or '
            "delete it.",
        ),
        (
            "a.jsonl",
            LINES + '{"prompt": "p", "cho',
            ", line 3 is not JSON (Unterminated string starting at at column 17): "
            '{"prompt": "p", "cho. Each line must hold one JSON object. It is the last line: was the file cut off?',
        ),
        (
            "a.jsonl",
            LINES + "5\n",
            ", line 3 is a number, not an object. Each line must hold one JSON object. Correct the line or delete it.",
        ),
        (
            "a.jsonl",
            '{"a": "x", "a": "y"}\n',
            ", line 1 has the key 'a' twice. Each line must hold one JSON object. Correct the line or delete it.",
        ),
        ("a.jsonl", LINES.encode("utf-16"), " is UTF-16; must be UTF-8. Try: iconv -f UTF-16 -t UTF-8 a.jsonl > utf8-a.jsonl"),
        (
            "a.jsonl",
            LINES.encode() + b'{"a": "\xff"}\n',
            ", line 3 is not UTF-8 (byte 8 of the line is 0xff). Each line must hold one JSON object. Correct the line or delete it.",
        ),
        (
            "a.jsonl",
            '{"a": "\\ud800"}\n',
            ", line 1 holds half a surrogate pair (\\ud800 to \\udfff), which stands for no character. Each line must hold one JSON "
            "object. Correct the line or delete it.",
        ),
        ("a.json", '[\n{"a": "x"},\n{"a": }\n]', ", line 3 is not JSON (Expecting value at column 7). Correct it there."),
        ("a.jsonl.gz", LINES, " is not gzip inside, whatever its name says. Rename it without .gz, or compress it anew."),
        (
            "a.jsonl.gz",
            gzip.compress((LINES * 99).encode(), mtime=0)[:-20],
            ": the gzip data end too early; the file was cut off. Copy it again.",
        ),
        (
            "a.csv",
            "a,b\nx,1\ny,2,3\n",
            ", line 3: 3 fields under 2 column names. Give every column a name, and put fields that hold a comma or a line break in double "
            "quotes.",
        ),
        (
            "a.csv",
            "a,b\nx,1,2\n",
            ", line 2: 3 fields under 2 column names. Give every column a name, and put fields that hold a comma or a line break in double "
            "quotes.",
        ),
        ("a.csv", "a,a\nx,1\n", ": the column name 'a' stands twice in the first line. Rename one of them."),
        ("a.csv", b"a,b\nx,\xff\n", ", line 2 is not UTF-8 (byte 3 of the line is 0xff). Save the file as UTF-8."),
        ("a.parquet", "PAR1", " is not a Parquet file, whatever its name says, or it was cut off. Write it anew."),
    ],
)
def test_a_file_that_cannot_be_read_is_explained_by_what_stands_in_it(write: Write, name: str, content: bytes | str, words: str) -> None:
    assert complaint(write(name, content)) == words


def test_a_deeply_nested_line_ends_in_a_message(write: Write) -> None:
    assert ", line 1 " in complaint(write("a.jsonl", '{"a": ' + "[" * 2000 + "]" * 2000 + "}\n"))


def test_parquet_without_rows_is_told(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"a": pyarrow.array([], pyarrow.string())}), tmp_path / "a.parquet")
    assert complaint(tmp_path / "a.parquet") == " holds no rows."


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_told(write: Write) -> None:
    path = write("a.jsonl", LINES)
    path.chmod(0)
    assert complaint(path) == ": cannot be opened (Permission denied). Allow it with chmod, or copy the file."
