"""What is around a run changes: its output has no reader, its terminal closes, its process is stopped for a while, the clock jumps."""

from __future__ import annotations

import itertools
import os
import signal
import threading

from equal_runs import check_equal
from undisturbed import ROW, SHORT

from alignkit.run_dir import RunDir, read_jsonl


def test_no_reader_a_pause_and_a_clock_that_goes_back_change_nothing(commands, undisturbed, tmp_path):
    pipe, run = tmp_path / "pipe", RunDir(tmp_path / "run")
    os.mkfifo(pipe)
    seen: list[bytes] = []

    def head() -> None:
        with pipe.open("rb", buffering=0) as reader:
            seen.append(reader.read(1))

    reading = threading.Thread(target=head)
    reading.start()
    typed = (*SHORT, "logger=jsonl", f"run_dir={run.path}")
    assert commands(*typed, log=pipe, clock=3600, signal=signal.SIGSTOP, at=ROW, call=5) == 0
    reading.join()
    assert len(seen[0]) == 1, "nothing was printed at all"
    check_equal(run, undisturbed)
    rows = list(read_jsonl(run.metrics))
    assert all(later["time"] < row["time"] for row, later in itertools.pairwise(rows)), "the clock went on"
    costs = [value for row in rows for name, value in row.items() if "throughput" in name or "seconds" in name]
    assert all(value >= 0 for value in costs)


def test_a_terminal_that_closes_stops_a_run_that_can_go_on(commands, tmp_path):
    log, run = tmp_path / "log.txt", RunDir(tmp_path / "run")
    assert commands(*SHORT, "logger=jsonl", f"run_dir={run.path}", log=log, signal=signal.SIGHUP, at=ROW, call=5) == 129
    assert f"resume={run.path}" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert run.last_checkpoint.exists()
