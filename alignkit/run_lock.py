"""One run a directory: a lock that is held while a run writes there, and that the system opens when its process is gone.

`.lock` says who holds it, and goes when it is released. It is `flock`'s, as `filelock`'s on such systems, but with words in the file and
with a shared form: the process that starts the ranks of a run and the first of them hold it both, so that ranks whose starter was
killed are still at work in the eyes of the next one.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from alignkit.errors import UserError

LOCK: Final = ".lock"
_held: dict[Path, int] = {}
"""Descriptors of the locks that this process holds, by folder."""
_told: set[str] = set()
"""Folders of which it was said that they have no locks."""


@contextmanager
def only_here(folder: Path) -> Iterator[None]:
    """Let no other process work in a run directory meanwhile. Within itself it changes nothing. Where the file system has no locks, say so
    once and go on without.

    Raises:
        UserError: when another process is at work there, saying which.
    """
    if folder in _held or not _take(folder):
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / LOCK).unlink(missing_ok=True)
        _release(folder)


@contextmanager
def one_of_several(folder: Path) -> Iterator[None]:
    """Keep the lock, which the process that started this one holds, even if that one is killed."""
    with suppress(OSError):  # no lock, or none here
        _held[folder] = os.open(folder / LOCK, os.O_RDWR)
        fcntl.flock(_held[folder], fcntl.LOCK_SH | fcntl.LOCK_NB)
    try:
        yield
    finally:
        _release(folder)


def holder(folder: Path) -> str:
    """Who holds the lock of a run directory, in words."""
    try:
        says = json.loads((folder / LOCK).read_text(encoding="utf-8"))
        return f"process {int(says['pid'])} on {str(says['host'])[:100]}, since {str(says['since'])[:100]}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"


def _take(folder: Path) -> bool:
    """Hold the lock. False where there are none.

    Raises:
        UserError: when another process holds it.
    """
    file = folder / LOCK
    while True:
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(f"run_dir = {folder}: cannot be written ({error.strerror}).") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who has just left took the file along: this is a lock on nothing.
            if _is_at(file, descriptor):
                break
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(_busy(folder)) from None
        except OSError as error:
            os.close(descriptor)
            _say_without(folder, error)
            return False
        os.close(descriptor)
    _held[folder] = descriptor
    says = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S %Z")}
    with suppress(OSError):  # a full disk: the lock holds without a word
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{json.dumps(says)}\n".encode(), 0)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:  # another one came while it was turned into a shared one
        _release(folder)
        raise UserError(_busy(folder)) from None
    return True


def _is_at(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _busy(folder: Path) -> str:
    return (
        f"run_dir = {folder}: {holder(folder)} is at work there. Wait until it is done, stop it, or give this run a directory of its "
        "own with run_dir=DIR."
    )


def _say_without(folder: Path, error: OSError) -> None:
    if str(folder) not in _told:
        _told.add(str(folder))
        print(f"{folder}: the file system has no locks ({error.strerror}); see to it that no other run writes there.", flush=True)


def _release(folder: Path) -> None:
    descriptor = _held.pop(folder, None)
    if descriptor is not None:
        os.close(descriptor)


def _let_go() -> None:
    """In a process that is forked from a holder: were it to keep its copies, the lock would outlive the run."""
    for descriptor in _held.values():
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
