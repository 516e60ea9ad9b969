"""Batches in a file, whatever has become of its end."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from alignkit.labelling.journal import Journal, json_lines, write_whole

SIZES = (2, 2, 1)
ROWS = [[{"batch": number, "row": row, "text": "é"} for row in range(size)] for number, size in enumerate(SIZES)]


def test_batches_come_back_as_they_were_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    assert journal.whole_batches(SIZES) == []
    for rows in ROWS:
        journal.append(rows)
    assert journal.whole_batches(SIZES) == ROWS


@given(cut=st.integers(min_value=0))
def test_a_file_that_ends_anywhere_is_cut_back_to_its_last_whole_batch_and_goes_on(tmp_path_factory, cut: int) -> None:
    file = tmp_path_factory.mktemp("torn") / "j.jsonl"
    whole = "".join(map(json_lines, ROWS)).encode()
    ends = [len("".join(map(json_lines, ROWS[:count])).encode()) for count in range(len(ROWS) + 1)]
    cut %= len(whole) + 1
    file.write_bytes(whole[:cut])
    journal = Journal(file)
    found = journal.whole_batches(SIZES)
    assert found == ROWS[: max(count for count, end in enumerate(ends) if end <= cut)]
    for rows in ROWS[len(found) :]:
        journal.append(rows)
    assert file.read_bytes() == whole


def test_rows_after_the_last_batch_and_of_another_one_are_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "j.jsonl"
    for after in ('{"batch": 3, "row": 0}\n', '{"batch": 0, "row": 0}\n', "[]\n", "{}\n", "no JSON\n"):
        file.write_text("".join(map(json_lines, ROWS)) + after)
        assert Journal(file).whole_batches(SIZES) == ROWS
        assert file.read_text() == "".join(map(json_lines, ROWS))


def test_a_batch_without_rows_changes_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "labels.jsonl")
    journal.append([])
    journal.append([{"a": 1}])
    journal.append([])
    assert (tmp_path / "labels.jsonl").read_text() == '{"a": 1}\n'


def test_a_whole_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "s.json"
    for value in ({"a": 1}, {"b": 2}):
        write_whole(file, json.dumps(value))
        assert json.loads(file.read_text()) == value
    assert list(tmp_path.iterdir()) == [file]
