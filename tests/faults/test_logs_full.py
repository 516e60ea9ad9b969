"""A disk that is full for the logs alone: training goes on, and rows are written when there is room or counted."""

from __future__ import annotations

import json

from equal_runs import check_equal, rows
from undisturbed import ROWS, SHORT

from alignkit.run_dir import RunDir


def test_rows_that_find_no_room_are_written_later_and_in_order(commands, undisturbed, tmp_path):
    log, run = tmp_path / "log.txt", RunDir(tmp_path / "run")
    # The second, third and fourth write leave half of what they were to write behind; then there is room.
    assert commands(*SHORT, "logger=jsonl", f"run_dir={run.path}", log=log, full=["metrics.jsonl", 2, 4]) == 0, log.read_text()
    said = log.read_text()
    assert said.count("metrics.jsonl cannot be written (No space left on device). Training goes on") == 1
    assert "metrics.jsonl: 4 rows that were held back are written." in said
    check_equal(run, undisturbed)


def test_what_finds_no_room_to_the_end_is_counted_and_the_results_are_whole(commands, undisturbed, tmp_path):
    log, run = tmp_path / "log.txt", RunDir(tmp_path / "run")
    assert commands(*SHORT, "logger=jsonl", f"run_dir={run.path}", log=log, full=["metrics.jsonl", 4, 1000]) == 0, log.read_text()
    assert f"metrics.jsonl lacks its last {ROWS - 3} rows, which could not be written." in log.read_text()
    assert rows(run) == rows(undisturbed)[:3]
    results, others = (json.loads(of.results.read_text()) for of in (run, undisturbed))
    assert {name: value for name, value in results.items() if "val/" in name} == {
        name: value for name, value in others.items() if "val/" in name
    }
    assert sum("val/" in name for name in results) > 20
