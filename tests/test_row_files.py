"""Files of rows on a disk that is full: nothing is half there, nothing is out of order, and what had to wait is written later."""

from __future__ import annotations

import json
import pickle
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from alignkit.row_files import RowFiles, append_text
from alignkit.run_dir import RunDir, forget_after, newest_first, read_jsonl


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond this: the system refuses a write as it does on a full disk, after what fits."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_is_written_whole_or_not_at_all(tmp_path):
    file = tmp_path / "rows"
    append_text(file, "first\n")
    with room_for(10), pytest.raises(OSError, match="File too large"):
        append_text(file, "second\n")
    assert file.read_bytes() == b"first\n"


def test_rows_wait_for_room_and_are_written_in_order(tmp_path, capsys):
    rows, file = RowFiles(), tmp_path / "rows"
    rows.append(file, "1\n")
    with room_for(3):
        rows.append(file, "22222222\n")
        rows.append(file, "3\n")  # there is room for this one: it may not overtake
        assert file.read_text() == "1\n"
        assert rows.waiting(file) == ["22222222\n", "3\n"]
    rows.append(file, "4\n")
    assert file.read_text() == "1\n22222222\n3\n4\n"
    assert rows.waiting(file) == []
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "rows cannot be written (File too large). Training goes on; rows are held back until there is room.",
        "rows: 3 rows that were held back are written.",
    ]


def test_what_is_lost_at_the_end_is_counted(tmp_path, capsys):
    rows, file, other = RowFiles(), tmp_path / "rows", tmp_path / "pairs"
    other.write_text("old")
    with room_for(3):
        for row in range(3):
            rows.append(file, f"{row}{row}{row}\n")
        rows.replace(other, "newer\n")
        rows.settle()
    assert not file.exists() or file.read_text() == ""
    assert other.read_text() == "old"
    assert capsys.readouterr().out.splitlines()[1:] == [
        "rows lacks its last 3 rows, which could not be written.",
        "pairs is an older one: the newest could not be written.",
    ]
    assert {path.name for path in tmp_path.iterdir()} <= {"rows", "pairs"}, "half a file takes up room"


def test_rows_that_wait_count_as_logged(tmp_path, capsys):
    run = RunDir(tmp_path)
    run.append_metrics({"val/loss": 2.0}, step=0, epoch=0.0)
    with room_for(run.metrics.stat().st_size + 5):
        run.append_metrics({"val/loss": 1.0}, step=2, epoch=1.0)
        assert [row["step"] for row in read_jsonl(run.metrics)] == [0]
        assert [row["val/loss"] for row in run.metric_rows()] == [2.0, 1.0]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_line_that_a_killed_process_left_by_half_is_cut_off_or_closed(cut, tmp_path):
    run = RunDir(tmp_path)
    for step in range(4):
        run.append_metrics({"train/loss": 0.5}, step=step, epoch=0.0)
    whole = run.metrics.read_bytes()
    run.metrics.write_bytes(whole[:-cut])
    assert [row["step"] for row in newest_first(run.metrics)] == [2, 1, 0]
    closed = tmp_path / "closed"
    closed.write_bytes(whole[:-cut])
    append_text(closed, '{"step": 9}\n')
    # a line that lacks nothing but its end is whole again
    assert [row["step"] for row in read_jsonl(closed)] == [0, 1, 2, *([3] if cut == 1 else []), 9]
    forget_after(run.metrics, 2)
    assert run.metrics.read_bytes() == b"".join(whole.splitlines(keepends=True)[:3])


@pytest.mark.parametrize(("step", "kept"), [(-1, []), (0, [0, 0]), (1, [0, 0, 1]), (7, [0, 0, 1, 3])])
def test_rows_of_later_steps_are_forgotten(step, kept, tmp_path):
    file = tmp_path / "rows"
    file.write_text("".join(json.dumps({"step": one}) + "\n" for one in (0, 0, 1, 3)))
    forget_after(file, step)
    assert [row["step"] for row in read_jsonl(file)] == kept


def test_to_forget_needs_no_room(tmp_path):
    run = RunDir(tmp_path)
    for step in range(4):
        run.append_metrics({}, step=step, epoch=0.0)
    with room_for(1):
        forget_after(run.metrics, 1)
    assert [row["step"] for row in read_jsonl(run.metrics)] == [0, 1]


def test_the_newest_rows_of_a_long_file_are_found_without_reading_the_others(tmp_path, monkeypatch):
    file = tmp_path / "rows"
    file.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(1000)))
    parsed = counting(monkeypatch)
    assert next(newest_first(file)) == {"step": 999}
    forget_after(file, 990)
    assert len(parsed) <= 11
    assert file.read_text().endswith('{"step": 990}\n')


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is parsed from now on."""
    parsed: list[str] = []
    loads: Callable[..., object] = json.loads

    def counted(text: str) -> object:
        parsed.append(text)
        return loads(text)

    monkeypatch.setattr("alignkit.run_dir.json.loads", counted)
    return parsed


def test_a_place_for_rows_may_be_given_to_another_process(tmp_path):
    run = RunDir(tmp_path)
    assert pickle.loads(pickle.dumps(run)) == run
