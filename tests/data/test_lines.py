"""Lines of files, and the limits that they stay within."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from alignkit.data import lines
from alignkit.data.lines import FileFault, check_unchanged, lines_of_rows, numbered_lines, stamp, whole_bytes


def test_only_line_feeds_end_lines_and_blank_ones_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"\xef\xbb\xbfone\r\n\n \ntwo\xe2\x80\xa8three\rfour\n")
    assert list(numbered_lines(file)) == [(1, b"one"), (4, b"two\xe2\x80\xa8three\rfour")]


@pytest.mark.parametrize("name", ["a", "a.gz"])
def test_a_line_may_be_as_long_as_the_limit_and_no_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(lines, "MOST_LINE_BYTES", 8)
    file, write = tmp_path / name, gzip.compress if name.endswith(".gz") else bytes
    file.write_bytes(write(b"1234567\n12345678"))
    assert len(list(numbered_lines(file))) == 2
    file.write_bytes(write(b"ok\n12345678\n"))
    with pytest.raises(FileFault, match=r"^, line 2 is longer than"):
        list(numbered_lines(file))


def test_so_much_may_be_unpacked_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "FREE_BYTES", 10_000)
    file = tmp_path / "a.gz"
    file.write_bytes(gzip.compress(b"x" * 99 + b"\n" * 1, mtime=0))
    assert len(whole_bytes(file)) == 100
    file.write_bytes(gzip.compress((b"x" * 99 + b"\n") * 1000, mtime=0))  # 100 kB of some 300 bytes: more than 200 times
    assert file.stat().st_size * lines.MOST_TIMES < 100_000
    for read in (whole_bytes, lambda path: list(numbered_lines(path))):
        with pytest.raises(FileFault, match="unpacks to more than 200 times"):
            read(file)
    plain = tmp_path / "a"
    plain.write_bytes(b"x\n" * 100_000)
    assert sum(1 for _ in numbered_lines(plain)) == 100_000


def test_a_file_that_was_written_to_is_not_what_it_was(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("one\ntwo\n")
    before = stamp(file)
    check_unchanged(file, before)
    reading = numbered_lines(file)
    next(reading)
    with file.open("a") as more:
        more.write("three\n")
    with pytest.raises(FileFault, match="was written to while it was read"):
        list(reading)
    with pytest.raises(FileFault):
        check_unchanged(file, before)


def test_rows_are_found_by_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("\n{}\n\n{}\n{}\n")
    assert lines_of_rows(file, [0, 2]) == {0: 2, 2: 5}
    assert lines_of_rows(file, []) == {}
    file.write_text("[\n{}\n]\n")
    assert lines_of_rows(file, [0]) == {}
