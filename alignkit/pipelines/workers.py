"""Running the stages of a schedule: here, one after the other, or in several processes of this machine.

A worker is started once and runs many stages, so that what takes seconds to import is imported once. It has one thread unless
OMP_NUM_THREADS or `hardware.threads` says otherwise: with a worker a core more would only get in each other's way.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import final

from alignkit.job import CRASHED
from alignkit.launching.launcher import killed_by
from alignkit.launching.output import output_in
from alignkit.pipelines.schedule import Schedule
from alignkit.pipelines.stage_runs import Outcome, PlacedStage, attempt
from alignkit.sweeping.sweep import LOG, STOPS

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_here(schedule: Schedule, *, group: str, debug: bool) -> int | None:
    """Run all stages in this process; what they print goes to the `log.txt` of their job.

    Returns:
        The exit code of the signal that stopped it; None where none did.
    """
    while (stage := schedule.next()) is not None:
        schedule.begin(stage)
        outcome = logged(stage, group, debug=debug)
        schedule.end(stage, outcome)
        if outcome.exit_code in STOPS:
            return outcome.exit_code
    return None


def run_in_workers(schedule: Schedule, workers: int, *, group: str, debug: bool) -> int | None:
    """Run stages in so many processes at once. One that dies takes its stage with it and is replaced.

    Ctrl-C and SIGTERM are passed on to the workers, which save what they can; at the second one they are killed.

    Returns:
        The exit code of the signal that stopped it; None where none did.
    """
    crew = Crew(group, debug=debug)
    with crew.passing_signals_on():
        try:
            while True:
                while crew.stopped is None and len(crew.busy) < workers and (stage := schedule.next()) is not None:
                    schedule.begin(stage)
                    crew.give(stage)
                if not crew.busy:
                    break
                for stage, outcome in crew.ended():
                    schedule.end(stage, outcome)
                    if outcome.exit_code in STOPS:  # sent to the worker by somebody else
                        crew.stop(signal.Signals(outcome.exit_code - 128))
        finally:
            crew.dismiss()
    return None if crew.stopped is None else 128 + crew.stopped


def logged(stage: PlacedStage, group: str, *, debug: bool) -> Outcome:
    """Run a stage; what it prints goes to the `log.txt` of the job in whose directory it is."""
    log = stage.run.path.parent / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    with output_in(log):
        print(f"stage {stage.stage.name}", flush=True)
        return attempt(stage, group=group, debug=debug)


@final
class Crew:
    """The processes that run stages, as the command sees them."""

    def __init__(self, group: str, *, debug: bool) -> None:
        self.busy: dict[Worker, PlacedStage] = {}
        self.stopped: signal.Signals | None = None
        """The signal that ends it all."""
        self._idle: list[Worker] = []
        self._group = group
        self._debug = debug

    def give(self, stage: PlacedStage) -> None:
        """Have a worker run a stage."""
        worker = self._idle.pop() if self._idle else Worker(self._group, debug=self._debug)
        self.busy[worker] = stage
        worker.connection.send(stage)
        if self.stopped is not None:  # meanwhile, and the worker was not there to hear of it
            worker.send(signal.SIGKILL)

    def ended(self) -> Iterator[tuple[PlacedStage, Outcome]]:
        """Wait until a stage has ended, and say which and how."""
        by_connection = {worker.connection: worker for worker in self.busy}
        for connection in wait(list(by_connection)):
            worker = by_connection[connection]  # type: ignore[index]
            stage = self.busy.pop(worker)
            try:
                outcome = worker.connection.recv()
                self._idle.append(worker)
            except (EOFError, ConnectionError):
                outcome = worker.death(self.stopped)
            yield stage, outcome

    def stop(self, number: signal.Signals) -> None:
        """Pass a signal on to all who are at work, the first time; afterwards kill them."""
        again, self.stopped = self.stopped is not None, self.stopped or number
        for worker in list(self.busy):
            worker.send(signal.SIGKILL if again else number)

    def dismiss(self) -> None:
        """Let everybody go: those that wait end by themselves, others only exist where the command itself fails."""
        for worker in self._idle:
            worker.connection.close()
        for worker in self.busy:
            worker.send(signal.SIGKILL)
        for worker in (*self._idle, *self.busy):
            worker.process.join()

    @contextmanager
    def passing_signals_on(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM mean the stages, not the schedule."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals are the main thread's
            return

        def handle(number: int, frame: FrameType | None) -> None:
            self.stop(signal.Signals(number))

        before = {number: signal.signal(number, handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@final
class Worker:
    """A process that runs stages one after the other."""

    def __init__(self, group: str, *, debug: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=work, args=(theirs, group, debug))
        self.process.start()
        theirs.close()  # so that the pipe ends with the worker

    def send(self, number: signal.Signals) -> None:
        """A signal."""
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)

    def death(self, stopped: signal.Signals | None) -> Outcome:
        """How the stage of a worker ended that has died over it."""
        self.process.join()
        code = self.process.exitcode or 0
        if stopped is not None:
            return Outcome(exit_code=128 + stopped, message=f"stopped by {stopped.name}.")
        how = f"was {killed_by(-code)}" if code < 0 else f"ended with exit code {code} and without a word; see {LOG}."
        return Outcome(exit_code=CRASHED, message=f"its process {how}")


def work(connection: Connection, group: str, debug: bool) -> None:
    """What a worker does: run what arrives and tell how it ended, until nothing more can come."""
    os.setsid()  # Ctrl-C on the terminal reaches the command, which passes it on
    end_with_parent()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported
    while True:
        try:
            stage = connection.recv()
        except EOFError:
            return
        connection.send(logged(stage, group, debug=debug))


def end_with_parent() -> None:
    """End this process at once when the command is gone: the next one begins where it stood, and would meet it at work there."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by hand"

    def watch() -> None:
        parent.join()
        os._exit(CRASHED)

    threading.Thread(target=watch, daemon=True).start()
