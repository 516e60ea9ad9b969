"""What trouble with W&B costs a step of training: `python tests/bench/wandb_trouble.py [REPEATS]`.

Runs with each kind of trouble and with `logger=jsonl` take turns, A B A B; every step is logged. Of each step it is measured how much
processor time all threads of the run spent, which other work on the machine hardly changes, how long it took, which it does, and how long
the training thread was in W&B's logger, which is all that could hold it up. Prints medians over the steps of all runs of a kind.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import json
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("end_to_end", "faults")]

from run_server import child_named
from wandb_server import serving

import alignkit.tracking
import alignkit.tracking_guard
import alignkit.train
from alignkit.run_dir import RunDir

STEPS = 60
SHORT = (
    *("loss=con_dph", f"steps={STEPS}", f"validation.every={STEPS}", "validation.samples=0", "logger.every=1", "hardware.threads=1"),
    *("batch.pairs=4", "dataset.pairs=240", "dataset.validation_examples=8", "callbacks.progress_bar=false", "callbacks.checkpoints=false"),
)
FIRST = 10
"""Steps that are left out."""
KILLED = 7
"""Step at which W&B's process is killed."""
Environment = dict[str, str]


@contextmanager
def offline() -> Iterator[Environment]:
    """Nothing is wrong."""
    yield {"WANDB_MODE": "offline"}


@contextmanager
def refusing() -> Iterator[Environment]:
    """Nobody listens."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    yield {"WANDB_MODE": "online", "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": f"http://127.0.0.1:{port}"}


@contextmanager
def silent() -> Iterator[Environment]:
    """The server accepts rows and never answers."""
    with serving("silence", later=True) as server:
        yield server.environment


@contextmanager
def failing() -> Iterator[Environment]:
    """It answers 500."""
    with serving("errors", later=True) as server:
        yield server.environment


@contextmanager
def killed() -> Iterator[Environment]:
    """W&B's process dies."""
    yield {"WANDB_MODE": "offline", "KILL": "yes"}


KINDS: Mapping[str, Callable[[], AbstractContextManager[Environment]]] = {
    "none, offline": offline,
    "server refuses": refusing,
    "server accepts and never answers": silent,
    "server answers 500": failing,
    f"W&B's process killed at step {KILLED}": killed,
}


def measured(logger: str, environment: Environment, folder: Path) -> tuple[list[float], list[float], list[float]]:
    """Of each step of a run in a process of its own: milliseconds of processors, of the clock, and in W&B's logger."""
    place = folder / f"{logger}-{time.monotonic_ns()}"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = run((*SHORT, f"logger={logger}", f"run_dir={place}"), environment, place.with_suffix(".json"), place.with_suffix(".txt"))
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0, place.with_suffix(".txt").read_text()
    looks, waits = json.loads(place.with_suffix(".json").read_text())
    steps = [[1000 * (later - sooner) for sooner, later in itertools.pairwise(clock)][FIRST:] for clock in zip(*looks, strict=True)]
    return steps[0], steps[1], [1000 * wait for wait in waits[FIRST:]]


def run(argv: tuple[str, ...], environment: Environment, file: Path, log: Path) -> int:
    """Train, with a look at the clocks at each row that is logged."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ.update(environment)
    for module, name, value in (("", "INIT_TIMEOUT", 3.0), ("", "FINISH_TIMEOUT", 3.0), ("_guard", "START_PATIENCE", 60.0)):
        setattr(sys.modules[f"alignkit.tracking{module}"], name, value)
    looks: list[tuple[float, float]] = []
    waits: list[float] = []
    append, log_metrics = RunDir.append_metrics, alignkit.tracking.GuardedLogger.log_metrics

    @functools.wraps(append)
    def looking(self: RunDir, *args: Any, **kwargs: Any) -> None:
        looks.append((time.process_time(), time.perf_counter()))
        if "KILL" in environment and len(looks) == KILLED:
            os.kill(child_named("wandb-core"), signal.SIGKILL)
        append(self, *args, **kwargs)

    @functools.wraps(log_metrics)
    def timing(*args: Any, **kwargs: Any) -> None:
        begun = time.perf_counter()
        log_metrics(*args, **kwargs)
        waits.append(time.perf_counter() - begun)

    RunDir.append_metrics = looking  # type: ignore[method-assign]
    alignkit.tracking.GuardedLogger.log_metrics = timing  # type: ignore[method-assign]
    sys.argv = ["train", *argv]
    code = alignkit.train.main()
    file.write_text(json.dumps([looks[:STEPS], waits]))
    return code


def main() -> None:
    """Print a row for each kind of trouble."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    importlib.import_module("alignkit.training")  # once, before processes part
    with tempfile.TemporaryDirectory() as name:
        measured("jsonl", {}, Path(name))  # fills the cache
        print(
            "| trouble | processor ms a step: jsonl | with W&B | ratio | ms a step: jsonl | with W&B | ms in the logger: median | longest |"
        )
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for kind, trouble in KINDS.items():
            without: list[list[float]] = [[], [], []]
            tracked: list[list[float]] = [[], [], []]
            for _ in range(repeats):
                with trouble() as environment:
                    for gathered, logger, around in ((without, "jsonl", {}), (tracked, "wandb", environment)):
                        for values, new in zip(gathered, measured(logger, around, Path(name)), strict=True):
                            values += new
            cpu, clock = ([statistics.median(runs[number]) for runs in (without, tracked)] for number in (0, 1))
            waits = tracked[2]
            print(
                f"| {kind} | {cpu[0]:.1f} | {cpu[1]:.1f} | {cpu[1] / cpu[0]:.3f} | {clock[0]:.1f} | {clock[1]:.1f} "
                f"| {statistics.median(waits):.3f} | {max(waits):.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
