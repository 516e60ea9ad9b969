"""Several runs that are told to use the same directory: one does, the others are told who does."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from equal_runs import check_equal
from undisturbed import ROW, SHORT

from alignkit.run_dir import RunDir
from alignkit.run_lock import LOCK

Commands = Any


def test_of_those_that_come_at_once_one_runs_and_the_others_are_told_who(commands: Commands, undisturbed: RunDir, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    logs = [tmp_path / f"{number}.txt" for number in range(4)]
    typed = (*SHORT, "logger=jsonl", f"run_dir={run.path}")
    codes = commands.together(*(commands.order(*typed, log=log, signal=signal.SIGKILL, at=ROW, call=8) for log in logs))
    assert sorted(codes) == [-signal.SIGKILL, 2, 2, 2]
    for code, log in zip(codes, logs, strict=True):
        if code == 2:
            assert log.read_text() == f"run_dir = {run.path}: holds a run already. Choose another, e.g. run_dir={run.path}-2.\n"
    assert (run.path / LOCK).exists(), "a killed run leaves its lock, which is nobody's then"

    logs = [tmp_path / f"resume{number}.txt" for number in range(2)]
    codes = commands.together(*(commands.order(f"resume={run.path}", log=log) for log in logs))
    assert sorted(codes) == [0, 2], "".join(log.read_text() for log in logs)
    refusal = logs[codes.index(2)].read_text()
    assert refusal.startswith(f"run_dir = {run.path}: process ")
    assert f"on {socket.gethostname()}, since " in refusal
    assert "is at work there" in refusal
    assert "Traceback" not in refusal
    check_equal(run, undisturbed)
    assert not (run.path / LOCK).exists()


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("file/run", "cannot be written \\(Not a directory\\)"),
        ("n" * 300, "cannot be written \\(File name too long\\)"),
    ],
    ids=["below a file", "a name that is too long"],
)
def test_a_place_that_cannot_be_written_is_refused_before_a_model_is_loaded(
    place: str, reason: str, commands: Callable[..., int], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    log = tmp_path / "log.txt"
    assert commands(*SHORT, f"run_dir={place}", log=log, folder=tmp_path) == 2
    assert re.fullmatch(rf"run_dir = \S*{re.escape(place)}: ({reason}).*\n", log.read_text()), log.read_text()
    assert (tmp_path / "file").read_text() == "mine"
