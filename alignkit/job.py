"""One job: from checked settings to an exit code, whatever happens on the way."""

from __future__ import annotations

import dataclasses
import itertools
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from alignkit.configuration import config_yaml
from alignkit.errors import DivergedError, RankError, StorageError, UserError
from alignkit.hardware_checks import check_hardware, check_machine
from alignkit.launching.agreement import agreed_run
from alignkit.launching.outcomes import Outcomes
from alignkit.launching.output import send_output
from alignkit.launching.placement import Placement, check_start, placement
from alignkit.manifests import step_checkpoints
from alignkit.redaction import redacted
from alignkit.row_files import replace_text
from alignkit.run_dir import RunDir, Scalar
from alignkit.run_lock import only_here
from alignkit.settings import RunSettings
from alignkit.summary import final_table, print_table
from alignkit.terminal import harmless

RESUMED = "Go on with: python -m alignkit.train resume="
"""What a message says that knows how."""
DONE = 0
CRASHED = 1
WRONG_INPUT = 2
DIVERGED = 3
HUNG_UP = 129
INTERRUPTED = 130
TERMINATED = 143
STOPPED_BY = {HUNG_UP: "stopped by SIGHUP.", INTERRUPTED: "stopped by Ctrl-C.", TERMINATED: "stopped by SIGTERM."}


def run_job(settings: RunSettings, *, named: bool) -> int:
    """Train in a directory of its own and say how it went. `named`: the user chose the directory.

    Returns:
        The exit code.
    """
    return conduct(settings, lambda place: agreed_run(place, lambda: claim(settings.run_dir, named=named)), carry_out)


def resume_job(settings: RunSettings, run: RunDir) -> int:
    """Go on with a run that was stopped, from its newest checkpoint, and say how it went.

    Returns:
        The exit code.
    """
    return conduct(settings, lambda place: run, carry_on)


def conduct(
    settings: RunSettings, find: Callable[[Placement | None], RunDir], work: Callable[[RunSettings, RunDir], dict[str, Scalar]]
) -> int:
    """Find the directory, do the work there, and say how it went: of several processes the first one, and one that failed."""
    run: RunDir | None = None
    place: Placement | None = None
    before: list[Path] = []
    try:
        check_start(settings.hardware)
        check_machine(settings)
        place = placement(settings.hardware)
        run = find(place)
        before = step_checkpoints(run.checkpoints)
        if place is not None and place.rank > 0:
            send_output(Outcomes.of(run).log(place.rank), errors=False)
        with only_here(run.path) if place is None or place.rank == 0 else nullcontext():
            results = work(settings, run)
    except BaseException as error:
        code, message = ending(error)
        whose = f"rank {place.rank} of {place.ranks}: " if place is not None and place.rank > 0 else ""
        show(error, code, whose * bool(message) + message, debug=settings.debug)
        if not whose and run is not None and not (code == WRONG_INPUT and give_up(run)):
            if code in (CRASHED, WRONG_INPUT) and step_checkpoints(run.checkpoints) != before and RESUMED not in str(error):
                print(f"The state is kept. {RESUMED}{run.path}", file=sys.stderr, flush=True)
            print(f"run: {run.path}", flush=True)
        return code
    return report(results, run) if place is None or place.rank == 0 else DONE


def report(results: Mapping[str, Scalar], run: RunDir) -> int:
    """The last lines of a run that came to its end."""
    print_table(final_table(results))
    print(f"run: {run.path}", flush=True)
    return DONE


def carry_out(settings: RunSettings, run: RunDir) -> dict[str, Scalar]:
    """Write `config.yaml`, train, and return the final results. Every rank that another program started calls this."""
    settings = dataclasses.replace(settings, run_dir=str(run.path))
    place = placement(settings.hardware)
    if place is None or place.rank == 0:
        run.config.write_text(config_yaml(settings), encoding="utf-8")
    return train_somewhere(settings, run)


def carry_on(settings: RunSettings, run: RunDir) -> dict[str, Scalar]:
    """Train from the newest checkpoint; `config.yaml` says what has changed by then."""
    place = placement(settings.hardware)
    text = config_yaml(settings)
    if (place is None or place.rank == 0) and run.config.read_text(encoding="utf-8") != text:
        replace_text(run.config, text)
    return train_somewhere(settings, run, resume=True)


def train_somewhere(settings: RunSettings, run: RunDir, *, resume: bool = False) -> dict[str, Scalar]:
    """Train in this process, which may be one of several that torchrun or Slurm started, or in ranks of our own."""
    check_hardware(settings)
    check_start(settings.hardware)
    check_machine(settings)
    place = placement(settings.hardware)
    with only_here(run.path) if place is None or place.rank == 0 else nullcontext():
        if place is None and settings.hardware.processes > 1:
            from alignkit.launching.launcher import run_ranks

            return run_ranks(settings, run, resume=resume)
        return train_here(settings, run, resume=resume)


def train_here(settings: RunSettings, run: RunDir, *, resume: bool = False) -> dict[str, Scalar]:
    """Train in this process."""
    # The first import of torch's big users: everything that can be wrong without them has been checked.
    from alignkit.training import train

    return train(settings, run, resume=True) if resume else train(settings, run)


def answer(question: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Carry out a command that writes nothing but its output, and say what went wrong as a run would.

    Returns:
        The exit code.
    """
    try:
        return question(argv)
    except BrokenPipeError:
        # `| head` has seen enough; Python would complain once more when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except BaseException as error:
        code, message = ending(error)
        show(error, code, message, debug="debug=true" in map(str.lower, argv))
        return code


def claim(path: str, *, named: bool) -> RunDir:
    """A fresh run directory. Where a default name is taken, by a run that started in the same second, `-2`, `-3` ... follow.

    Raises:
        UserError: when a directory that the user chose holds a run, or the place cannot be written.
    """
    for number in itertools.count(1):
        candidate = Path(path if number == 1 else f"{path}-{number}")
        try:
            return RunDir.create(candidate)
        except UserError:
            if named or not (candidate.expanduser() / "config.yaml").exists():
                raise
    raise AssertionError("count() does not end")


def give_up(run: RunDir) -> bool:
    """Free the directory of a run that never began, so that the corrected command may use it. False when it holds more than a config."""
    if [file.name for file in run.path.iterdir()] != [run.config.name]:
        return False
    run.config.unlink()
    run.path.rmdir()
    return True


def ending(error: BaseException) -> tuple[int, str]:
    """The exit code that an exception stands for, and its reason in a line: without secrets, and with nothing that moves a cursor."""
    code, message = plain_ending(error)
    return code, harmless(redacted(message))


def plain_ending(error: BaseException) -> tuple[int, str]:
    """The same, with a reason that may hold anything."""
    if isinstance(error, UserError):
        return WRONG_INPUT, str(error)
    if isinstance(error, DivergedError | StorageError):
        return DIVERGED, str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, str(error) or "stopped by Ctrl-C."
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else CRASHED if error.code else DONE
        return code, STOPPED_BY.get(code, str(error.code or ""))
    return CRASHED, f"{type(error).__name__}: {error}"


def show(error: BaseException, code: int, message: str, *, debug: bool) -> None:
    """Tell the user on standard error: our own faults with a traceback, theirs in one message."""
    if isinstance(error, RankError):
        print(harmless(redacted(str(error))), file=sys.stderr, flush=True)
    elif (code == CRASHED and not isinstance(error, SystemExit)) or (debug and code != DONE):
        print(harmless(redacted("".join(traceback.format_exception(error)))), end="", file=sys.stderr, flush=True)
    elif message:
        print(message, file=sys.stderr, flush=True)
