"""Work in a process of its own, so that what kills it kills nothing else. No torch."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Final, NamedTuple, NoReturn

from alignkit.errors import heard_signals
from alignkit.launching.launcher import PASSED_ON
from alignkit.launching.output import flush

CRASHED: Final = 1
NVML_CHECK: Final = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""Has torch look for GPUs without beginning to use them: a process that is forked from one that does cannot."""


class Ending(NamedTuple):
    """How such work ended."""

    code: int
    """Its exit code; minus the number of a signal that killed it."""
    received: list[signal.Signals]
    """What this process was sent meanwhile, and passed on."""


def can_part() -> bool:
    """Whether a process may be forked from this one: elsewhere than on Linux the system's libraries forbid it, and so does CUDA in use."""
    torch = sys.modules.get("torch")
    return sys.platform == "linux" and not (torch is not None and torch.cuda.is_initialized())


def apart(work: Callable[[], int]) -> Ending:
    """Carry out `work`, whose exit code it returns, in a process that is forked from this one.

    The process has a session of its own: Ctrl-C reaches this one, which passes it on and waits. It ends when this one is gone: whoever
    comes after would meet it at work.
    """
    flush()
    ours, theirs = os.pipe()  # ends with this process, however that ends
    # Until both know what to do with a signal it waits.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    child = os.fork()
    if child == 0:
        os.close(theirs)
        _carry_out(work, ours, mask)
    os.close(ours)
    try:
        with _passing_on_to(child, mask) as received:
            status = os.waitpid(child, 0)[1]
    finally:
        os.close(theirs)
    return Ending(os.waitstatus_to_exitcode(status), received)


def _carry_out(work: Callable[[], int], parent: int, mask: Iterable[int]) -> NoReturn:
    code = CRASHED
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
        code = work()
    except BaseException:  # nothing may get back into the copy of what the other process was doing
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            flush()
        os._exit(code)


def _end_with(parent: int) -> None:
    os.read(parent, 1)
    os._exit(CRASHED)


@contextmanager
def _passing_on_to(child: int, mask: Iterable[int]) -> Iterator[list[signal.Signals]]:
    """Let a child have the signals that this process is sent, which are yielded. `mask`: those that waited before."""
    received: list[signal.Signals] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        with suppress(ProcessLookupError):
            os.kill(child, number)

    # Only a main thread may handle signals, and who has started this with nohup wants no SIGHUP.
    is_main = threading.current_thread() is threading.main_thread()
    numbers = heard_signals(PASSED_ON) if is_main else []
    before = {number: signal.signal(number, pass_on) for number in numbers}
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
