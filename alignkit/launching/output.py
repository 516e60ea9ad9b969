"""Where a process's output goes: that of ranks and of a sweep's jobs into files, C libraries and child processes included."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO

OUTPUT = 1
ERRORS = 2


def flush() -> None:
    """Let nothing that was printed get lost."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


def send_output(file: Path, *, errors: bool) -> None:
    """Send this process's standard output to a file for good; with `errors` the standard error too."""
    file.parent.mkdir(exist_ok=True)
    flush()
    with file.open("ab", buffering=0) as target:
        for descriptor in (OUTPUT, ERRORS) if errors else (OUTPUT,):
            os.dup2(target.fileno(), descriptor)


@contextmanager
def output_in(file: Path) -> Iterator[None]:
    """Send everything that is printed inside to a file."""
    with ExitStack() as stack:
        target = stack.enter_context(file.open("a", encoding="utf-8", buffering=1))
        for descriptor in (OUTPUT, ERRORS):
            flush()
            before = os.dup(descriptor)
            stack.callback(os.close, before)
            stack.callback(os.dup2, before, descriptor)
            os.dup2(target.fileno(), descriptor)
        stack.callback(flush)
        # Streams that a caller has put in the place of Python's own write to no descriptor.
        stack.enter_context(redirect_stdout(target))
        stack.enter_context(redirect_stderr(target))
        yield


@contextmanager
def own_terminal() -> Iterator[TextIO]:
    """Standard output as it is now, whatever `output_in` makes of it later."""
    try:
        descriptor = sys.stdout.fileno()
    except io.UnsupportedOperation:
        yield sys.stdout
        return
    with os.fdopen(os.dup(descriptor), "w", encoding=sys.stdout.encoding, buffering=1) as terminal:
        yield terminal
