"""One run a directory: a lock that lives as long as the process that holds it, and no longer."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from alignkit.errors import UserError
from alignkit.job import give_up
from alignkit.run_dir import RunDir
from alignkit.run_lock import LOCK, one_of_several, only_here

HOLDER = """
import os, sys
from pathlib import Path
from alignkit.run_lock import one_of_several, only_here
with {how}(Path(sys.argv[1])):
    child = os.fork() if {forks} else None
    if child != 0:
        print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def another(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Other processes that hold the directory's lock."""
    with ExitStack() as stack:

        def start(how: str = "only_here", *, forks: bool = False) -> subprocess.Popen[str]:
            code = HOLDER.format(how=how, forks=forks)
            process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=-1, stdout=-1, text=True, start_new_session=True)
            stack.callback(end, process)
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            return process

        yield start


def end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):  # ended already, with all that it had started
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as refusal, only_here(folder):
        pass
    return str(refusal.value)


def test_who_comes_second_is_told_who_came_first(another, tmp_path):
    holder = another()
    message = refused(tmp_path)
    assert message.startswith(f"run_dir = {tmp_path}: process {holder.pid} on {socket.gethostname()}, since ")
    assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d .*is at work there", message)
    assert "run_dir=DIR" in message


def test_the_lock_of_a_dead_process_is_taken_over_without_a_word(another, tmp_path, capsys):
    holder = another()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / LOCK).exists()
    with only_here(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert capsys.readouterr().out == ""


def test_a_process_that_was_forked_from_the_holder_does_not_keep_it(another, tmp_path):
    holder = another(forks=True)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with only_here(tmp_path):
        pass


def test_it_leaves_nothing_behind(tmp_path):
    with only_here(tmp_path):
        assert [file.name for file in tmp_path.iterdir()] == [LOCK]
    assert list(tmp_path.iterdir()) == []


def test_within_the_same_process_it_may_be_asked_for_again(another, tmp_path):
    with only_here(tmp_path):
        with only_here(tmp_path):
            pass
        assert (tmp_path / LOCK).exists(), "the inner one is not the last"
    assert not (tmp_path / LOCK).exists()


def test_a_rank_keeps_it_when_the_process_that_started_it_is_killed(another, tmp_path):
    starter = another()
    rank = another("one_of_several")
    os.kill(starter.pid, signal.SIGKILL)
    starter.wait()
    assert "is at work there" in refused(tmp_path)
    os.kill(rank.pid, signal.SIGKILL)
    rank.wait()
    with only_here(tmp_path):
        pass


def test_without_a_lock_a_rank_goes_on(tmp_path):
    with one_of_several(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_where_there_are_no_locks_it_is_said_once(tmp_path, monkeypatch, capsys):
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for _ in range(2):
        with only_here(tmp_path):
            pass
    (said,) = capsys.readouterr().out.splitlines()
    assert said.startswith(f"{tmp_path}: the file system has no locks (No locks available)")


def test_a_full_disk_keeps_nobody_from_holding_it(tmp_path, monkeypatch):
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", refuse)
    with only_here(tmp_path):
        assert (tmp_path / LOCK).read_text() == ""


def test_a_holder_that_leaves_while_another_one_comes_does_not_take_its_lock_along(another, tmp_path, monkeypatch):
    with open_and_leave(tmp_path, monkeypatch), only_here(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


@contextmanager
def open_and_leave(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The file goes between its opening and the lock on it, once."""
    opened, times = os.open, 0

    def leaving(path: str | Path, *arguments: int) -> int:
        nonlocal times
        descriptor = opened(path, *arguments)
        times += 1
        if times == 1:
            (folder / LOCK).unlink()
        return descriptor

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", leaving)
        yield


def test_the_directory_of_a_run_that_never_began_is_freed_but_not_one_in_use(another, tmp_path):
    run = RunDir.create(tmp_path)
    another()
    assert not give_up(run)
    assert run.config.exists()


def test_many_who_come_at_once_are_one_after_the_other(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from alignkit.run_lock import only_here; from alignkit.errors import UserError\n"
        "folder = Path(sys.argv[1]); counter = folder / 'counter'; won = 0\n"
        "while won < 20:\n"
        "    try:\n"
        "        with only_here(folder):\n"
        "            value = int(counter.read_text()); time.sleep(0.0005); counter.write_text(str(value + 1)); won += 1\n"
        "    except UserError:\n"
        "        time.sleep(0.001)\n"
    )
    (tmp_path / "counter").write_text("0")
    many = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(4)]
    assert [process.wait() for process in many] == [0] * 4
    assert (tmp_path / "counter").read_text() == "80"
