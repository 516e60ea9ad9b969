"""W&B behind a guard: one thread talks to it, so that nobody waits for it, sees it fail, or is kept from ending by it."""

from __future__ import annotations

import os
import queue
import shlex
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, final

import wandb

START_PATIENCE = 10.0
"""Seconds that a run waits for W&B to begin. After them it goes on, and what it logs waits."""
FINISH_PATIENCE = 30.0
"""Seconds that a run waits at its end for W&B to take what is left."""
DEATH_PATIENCE = 2.0
"""Seconds that W&B's process, and the thread that waited for it, have to end when they are told to."""
SETTLING_PATIENCE = 2.0
"""Seconds that W&B's process may take to write what it was handed to its file after it has said that it is done."""
MOST_WAITING = 10_000
"""Rows that may wait; more are counted as lost."""
MOST_FAILURES = 3
"""Rows in a row that may fail before nothing is tried any more."""
QUIET_SECONDS = 600.0
"""In which nothing is logged that asks the server, once it has not answered: each time costs ten seconds, for which rows wait."""

Tracked: TypeAlias = Any
"""`wandb.Run`, or what stands for one where W&B is disabled."""


@final
@dataclass(frozen=True, slots=True)
class Task:
    """Something to tell W&B."""

    action: Callable[[Tracked], int]
    """Returns how many rows it has handed over."""
    rows: int
    """Rows that are lost if it fails."""
    asks: bool
    """Whether it asks the server, and waits for its answer: to log a table does, to log numbers does not."""


@final
@dataclass(frozen=True, slots=True)
class End:
    """Nothing more will come."""

    exit_code: int


@final
class Guard:
    """Hands what is logged to W&B in a thread of its own; `run` is the W&B run, None until there is one.

    The first failure is told to the user, rows that fail are counted, and where W&B is gone nothing more is tried.
    """

    def __init__(self, start: Callable[[], Tracked], *, truth: str) -> None:
        """`start` begins the W&B run; `truth` names the file that holds all that is logged."""
        self.run: Tracked | None = None
        self.given = 0
        """Rows that were handed over."""
        self.lost = 0
        """Rows that were not."""
        self._truth = truth
        self._tasks: queue.SimpleQueue[Task | End] = queue.SimpleQueue()
        self._started = threading.Event()
        self._failures = 0
        """Since the last success."""
        self._quiet_until = 0.0
        self._is_in_trouble = False
        self._thread = threading.Thread(target=self._work, args=(start,), name="tracking", daemon=True)
        self._thread.start()
        self._started.wait(START_PATIENCE)

    def do(self, action: Callable[[Tracked], int], *, rows: int = 1, asks: bool = False) -> None:
        """Have W&B told something, soon. Returns at once. `action` returns how many rows it was; see `Task` for the others."""
        if self._tasks.qsize() >= MOST_WAITING:
            self.lost += rows
        else:
            self._tasks.put(Task(action, rows, asks))

    def end(self, exit_code: int) -> None:
        """Finish the W&B run, within `FINISH_PATIENCE`, and say what W&B did not get."""
        self._tasks.put(End(exit_code))
        try:
            self._thread.join(FINISH_PATIENCE)
        finally:  # also where Ctrl-C ends the wait
            timed_out = self._thread.is_alive()
            if timed_out or self._is_in_trouble:
                self._abandon()
            self._report(timed_out=timed_out)

    def _work(self, start: Callable[[], Tracked]) -> None:
        try:
            self.run = start()
        except Exception as error:
            self._give_up(f"cannot be started ({in_a_line(error)})")
        self._started.set()
        while isinstance(task := self._tasks.get(), Task):
            if self.run is None or self._failures >= MOST_FAILURES or (task.asks and time.monotonic() < self._quiet_until):
                self.lost += task.rows
                continue
            try:
                self.given += task.action(self.run)
                self._failures = 0
            except Exception as error:
                self._fail(task, error)
        if self.run is not None:
            try:
                self.run.finish(exit_code=task.exit_code)
            except Exception as error:
                self._give_up(f"could not be finished ({in_a_line(error)})")

    def _fail(self, task: Task, error: Exception) -> None:
        self.lost += task.rows
        if is_gone(error):
            self._failures = MOST_FAILURES
            self._give_up("has gone")
            return
        if task.asks:
            self._quiet_until = time.monotonic() + QUIET_SECONDS
        else:
            self._failures += 1
        self._give_up(f"does not take what is logged ({in_a_line(error)})")

    def _give_up(self, what: str) -> None:
        if not self._is_in_trouble:
            self._is_in_trouble = True
            print(f"W&B {what}. The run goes on; {self._truth} holds all that is logged.", flush=True)

    def _abandon(self) -> None:
        """End W&B's process, which may wait for its server for ever and which Python would wait for, so that the next run begins anew."""
        process = service()
        if process is not None:
            process.terminate()
            with suppress(Exception):
                process.wait(DEATH_PATIENCE)
            process.kill()
        self._thread.join(DEATH_PATIENCE)
        # In a thread, for what it waits for is not ours to know.
        ending = threading.Thread(target=tear_down, daemon=True)
        ending.start()
        ending.join(DEATH_PATIENCE)

    def _left(self) -> int:
        """Rows that still wait, of a thread that does."""
        left = 0
        with suppress(queue.Empty):
            while True:
                task = self._tasks.get_nowait()
                left += task.rows if isinstance(task, Task) else 0
        return left

    def _report(self, *, timed_out: bool) -> None:
        file = log_of(self.run)
        stored = 0 if file is None else rows_in(file)
        deadline = time.monotonic() + SETTLING_PATIENCE
        while file is not None and stored < self.given and time.monotonic() < deadline:
            time.sleep(0.1)
            stored = rows_in(file)
        whole = self.given + self.lost + self._left()
        missing = whole - self.given if file is None else max(0, whole - stored)
        if missing:
            print(f"W&B did not get {missing} of {whole} rows; {self._truth} holds all of them.", flush=True)
        elif timed_out:
            print(f"W&B did not end within {FINISH_PATIENCE:g} s.", flush=True)
        if file is not None and stored and (timed_out or self._is_in_trouble):
            print(f"What it may lack on its server can be sent later: wandb sync {shlex.quote(str(file.parent))}", flush=True)


def in_a_line(error: Exception) -> str:
    """The error without line breaks, and its class where it says nothing."""
    words = " ".join(str(error).split())
    return words[:300] if words else type(error).__name__


GONE: Final = ("MailboxClosedError", "HandleAbandonedError", "WandbServiceConnectionError", "AlreadyJoinedError")


def is_gone(error: Exception) -> bool:
    """Whether an error says that W&B's process is not there any more."""
    return isinstance(error, ConnectionError) or type(error).__name__ in GONE


def service() -> Any | None:
    """W&B's process; None where there is none that this process has started. Read from its inside, which has no door for that."""
    with suppress(Exception):
        return wandb.setup()._connection._proc._process  # type: ignore[union-attr]
    return None


def tear_down() -> None:
    """Have W&B forget its process."""
    with suppress(BaseException):  # it raises SystemExit where the process was killed
        wandb.teardown()


def log_of(run: Tracked | None) -> Path | None:
    """The file in which W&B keeps all that it was handed; None where it keeps none."""
    folder = getattr(run, "dir", None)
    if not isinstance(folder, str | os.PathLike):
        return None
    return next(Path(folder).parent.glob("run-*.wandb"), None)


def rows_in(file: Path) -> int:
    """How many rows that file holds."""
    from alignkit.analysis.wandb_offline import records

    with suppress(Exception):
        return sum(record.WhichOneof("record_type") == "history" for record in records(file))
    return 0
