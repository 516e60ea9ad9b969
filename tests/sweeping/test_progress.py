"""What a sweep shows while it runs, read from the directories of its jobs."""

from __future__ import annotations

import io
import json
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from alignkit.command_line import precheck
from alignkit.configuration import config_yaml
from alignkit.run_dir import RunDir
from alignkit.sweeping.progress import TAIL, Watch, follow_in_lines, live_table, newest_rows, showing
from alignkit.sweeping.sweep import FAILURE, plan

ACCURACIES = "val/rewards/accuracies"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three jobs: done, running, waiting."""
    folder = plan(str(tmp_path / "grid"), [["seed=1"], ["seed=2"], ["seed=3"]], named=True)
    (settings,) = precheck(["loss=dpo", "steps=100"])
    for seed in (1, 2):
        run = RunDir.create(folder / f"{seed - 1}-seed={seed}")
        run.config.write_text(config_yaml(settings))
        run.append_metrics({ACCURACIES: 0.5 + seed / 8}, step=10, epoch=0.1)
        run.append_metrics({"train/loss": 0.1}, step=20, epoch=0.2)
    finished = RunDir(folder / "0-seed=1")
    finished.write_results({ACCURACIES: 0.875, "seconds": 12.34})
    os.utime(finished.results, (time.time() - 60,) * 2)
    return folder


def test_jobs_are_seen_as_they_stand(folder: Path) -> None:
    done, running, waiting = Watch(folder).look()
    assert (done.status, done.value, done.seconds) == ("done", 0.875, 12.34)
    assert (running.status, running.step, running.steps, running.value) == ("running", 20, 100, 0.75)
    assert (waiting.status, waiting.steps) == ("not run", None)


def test_results_are_not_the_last_word_of_a_job_that_was_stopped(folder: Path) -> None:
    run = RunDir(folder / "1-seed=2")
    run.write_results({ACCURACIES: 0.75, "seconds": 3.0})
    watch = Watch(folder)
    assert watch.look()[1].status == "running"
    (run.path / FAILURE).write_text(json.dumps({"exit_code": 130, "message": "stopped by Ctrl-C."}))
    assert watch.look()[1].status == "interrupted"


def test_the_table_names_jobs_steps_and_what_is_watched(folder: Path) -> None:
    out = io.StringIO()
    Console(file=out, width=100).print(live_table(Watch(folder).look(), 3, room=10))
    rows = [line.split() for line in out.getvalue().splitlines()]
    assert ["job", "overrides", "status", "step", ACCURACIES, "seconds"] in rows
    assert ["0", "seed=1", "done", "20/100", "0.875", "12"] in rows
    assert ["1", "seed=2", "running", "20/100", "0.75", "0"] in rows
    assert rows[-1] == ["1", "done,", "1", "running,", "1", "waiting"]


def test_where_there_is_no_room_running_jobs_stay(folder: Path) -> None:
    out = io.StringIO()
    Console(file=out, width=100).print(live_table(Watch(folder).look(), 3, room=1))
    assert "seed=2" in out.getvalue()
    assert "seed=1" not in out.getvalue()


def test_without_a_terminal_there_is_a_line_when_a_job_starts_and_one_when_it_ends(folder: Path) -> None:
    out = io.StringIO()
    looks = iter([False, False, True])
    follow_in_lines(Watch(folder), 3, out, lambda seconds: next(looks))
    assert out.getvalue().splitlines() == [
        "[1/3] seed=1: started",
        "[1/3] seed=1: done in 12.3 s, val/rewards/accuracies 0.875",
        "[2/3] seed=2: started",
        out.getvalue().splitlines()[-1],
    ]
    assert out.getvalue().splitlines()[-1].startswith("[2/3] seed=2: failed in 0.")  # the sweep is over, and it left no word


def test_what_is_shown_is_whole_when_the_sweep_is_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with showing(Watch(folder), 3):
        pass
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 of 3 jobs had ended before"  # which is all that is said of it
    assert [line for line in lines if "seed=1" in line] == []
    assert lines[-1].startswith("[2/3] seed=2: failed")


def test_only_whole_rows_at_the_end_of_a_file_are_read(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    assert newest_rows(metrics) == []
    row = json.dumps({"step": 1, "text": "x" * 1000})
    metrics.write_text(f"{row}\n" * 40 + '{"step": 2, "te')
    rows = newest_rows(metrics)
    assert {row["step"] for row in rows} == {1}
    # 16,384 bytes: 14 of the row that is being written, 15 rows of 1,024, and the end of one more.
    assert (TAIL, len(row)) == (16_384, 1023)
    assert len(rows) == 15
