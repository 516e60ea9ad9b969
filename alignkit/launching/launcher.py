"""Starting the ranks of a run on this machine with torchrun's agent, and telling how they ended."""

from __future__ import annotations

import json
import logging
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, NoReturn

from alignkit.errors import DivergedError, RankError, UserError, heard_signals, signal_exit_code
from alignkit.launching.outcomes import Outcome, Outcomes
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings

ENTRY: Final = "alignkit.launching.rank_process"
GRACE = 20
"""Seconds that the other ranks have when one has failed; then they are killed."""
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def run_ranks(settings: RunSettings, run: RunDir, *, resume: bool = False) -> dict[str, Scalar]:
    """Train in `hardware.processes` processes of this machine, as the run's config.yaml says. Returns what `results.json` holds.

    The agent is the one behind `torchrun --standalone`. Signals reach all ranks, rank 0's output this process's.

    Raises:
        UserError, DivergedError, KeyboardInterrupt, SystemExit: what a rank raised first.
        RankError: when a rank crashed or was killed.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    outcomes = Outcomes.of(run)
    outcomes.clear()
    arguments = ["-u", "-m", ENTRY, str(run.path), *(["--resume"] if resume else [])]
    arguments += [f"--allow-code={name}" for name in settings.allow_code]  # what a file says of it does not count
    exit_codes: Mapping[int, int] = {}
    with passing_signals_on(outcomes) as received, tempfile.TemporaryDirectory() as folder:
        try:
            elastic_launch(agent_config(settings.hardware.devices, folder), sys.executable)(*arguments)
        except ChildFailedError as error:
            exit_codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
    ended = outcomes.read()
    if exit_codes or ended:
        raise_first(ended, exit_codes, received, settings, run)
    outcomes.clear()
    results: dict[str, Scalar] = json.loads(run.results.read_text(encoding="utf-8"))
    return results


def agent_config(processes: int, folder: str) -> Any:
    """What `torchrun --standalone` asks of its agent, without its banners, and with signals left to us. `folder`: for its own files."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig

    for name in logging.root.manager.loggerDict:
        if name.startswith(("torch.distributed.elastic", "torch.distributed.launcher")):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=folder),
        signals_to_handle="SIGQUIT",
        shutdown_timeout=GRACE,
    )


@contextmanager
def passing_signals_on(outcomes: Outcomes) -> Iterator[list[signal.Signals]]:
    """Pass Ctrl-C, SIGTERM and their like on to the ranks, which finish their step and save. Yields the signals that came."""
    received: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # only a main thread may handle signals
        return

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        outcomes.send(signal.Signals(number))

    before = {number: signal.signal(number, pass_on) for number in heard_signals(PASSED_ON)}
    before[signal.SIGQUIT] = signal.getsignal(signal.SIGQUIT)  # the agent takes it
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_first(
    ended: list[Outcome], exit_codes: Mapping[int, int], received: list[signal.Signals], settings: RunSettings, run: RunDir
) -> NoReturn:
    """Raise what ended the run: a signal that was passed on, else a rank that was killed from outside, else the earliest error."""
    ranks, outcomes = settings.hardware.processes, Outcomes.of(run)
    stops = [outcome for outcome in ended if outcome.exit_code > 128]
    if received or (len(stops) == len(ended) and not exit_codes):
        number = received[0] if received else signal.Signals(stops[0].exit_code - 128)
        message = next((outcome.message for outcome in stops if outcome.rank == 0), f"stopped by {number.name}.")
        raise KeyboardInterrupt(message) if number is signal.SIGINT else SystemExit(signal_exit_code(number))
    # Those that ended before the agent ended the others come first.
    rank, code = next(iter(exit_codes.items()), (0, 0))
    if code < 0 and rank not in {outcome.rank for outcome in ended}:
        raise RankError(f"rank {rank} of {ranks}: {killed_by(-code)} {go_on(run)}".rstrip())
    first = next((outcome for outcome in ended if outcome not in stops), None)
    if first is None:
        raise RankError(f"rank {rank} of {ranks}: ended with exit code {code} and without a word; see {outcomes.log(rank)}.")
    whose = f"rank {first.rank} of {ranks}: " if first.rank > 0 else ""
    for known in (UserError, DivergedError):
        if first.error == known.__name__:
            outcomes.remove()
            raise known(whose + first.message)
    raise RankError(f"rank {first.rank} of {ranks}: {first.message}\n{first.trace.rstrip()}\n{go_on(run)}".rstrip())


def killed_by(number: int) -> str:
    """What a signal that nobody asked for usually means."""
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    hint = {
        "SIGKILL": " (the system does that when memory runs out: see hardware.devices, batch.tokens, model.checkpointing)",
        "SIGSEGV": " (a fault inside a library)",
        "SIGABRT": " (a library gave up; its words are above or in the rank's log)",
    }.get(name, "")
    return f"killed by {name}{hint}."


def go_on(run: RunDir) -> str:
    """How to resume, where there is a checkpoint."""
    return f"Go on with: python -m alignkit.train resume={run.path}" if run.last_checkpoint.exists() else ""
