"""Where a process's output goes: that of ranks and of a sweep's jobs into files, C libraries and child processes included."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, cast, final

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
        stack.enter_context(redirect_stdout(steady(target)))
        stack.enter_context(redirect_stderr(steady(target)))
        yield


@final
class Steady:
    """A stream that takes what it can: a reader that has gone (`| head`), a terminal that was closed and a full disk end no run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop what nobody reads."""
        try:
            self._stream.write(text)
        except OSError as error:
            self._lose(error)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write them all."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush, or drop what nobody reads."""
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: OSError) -> None:
        """Where there is no reader any more, Python would complain once again when it ends and closes the stream."""
        if isinstance(error, BrokenPipeError):
            with suppress(OSError, ValueError):
                descriptor = os.open(os.devnull, os.O_WRONLY)
                os.dup2(descriptor, self._stream.fileno())
                os.close(descriptor)


def steady(stream: TextIO) -> TextIO:
    """The stream, through a `Steady`."""
    return cast(TextIO, Steady(stream))


@contextmanager
def steady_output() -> Iterator[None]:
    """Whatever becomes of who reads what is printed inside, the work goes on."""
    with redirect_stdout(steady(sys.stdout)), redirect_stderr(steady(sys.stderr)):
        try:
            yield
        finally:
            flush()


@contextmanager
def own_terminal() -> Iterator[TextIO]:
    """Standard output as it is now, whatever `output_in` makes of it later."""
    try:
        descriptor = sys.stdout.fileno()
    except io.UnsupportedOperation:
        yield sys.stdout
        return
    terminal = os.fdopen(os.dup(descriptor), "w", encoding=sys.stdout.encoding, buffering=1)
    try:
        yield steady(terminal)
    finally:
        with suppress(OSError):
            terminal.close()
