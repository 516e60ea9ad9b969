"""Files of rows that grow while a run goes on, whatever the disk does: what cannot be written waits until there is room."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import final


@final
class RowFiles:
    """Writes lines, in order, and holds back those that the system refuses, so that a full disk ends no training.

    A line is in its file whole or not at all. Lines that wait are tried again with the next one.
    """

    def __init__(self) -> None:
        self._waiting: dict[Path, list[str]] = {}
        self._replacements: dict[Path, str] = {}
        """Whole files that wait; the newest content of each."""
        self._told = False

    def append(self, path: Path, line: str) -> None:
        """Add a line, which ends in a line break. It is in the file when this returns, or waits."""
        self._waiting.setdefault(path, []).append(line)
        self._try(path)

    def replace(self, path: Path, text: str) -> None:
        """Write a file whole in the place of what it held, now or later."""
        self._replacements[path] = text
        self._try(path)

    def waiting(self, path: Path) -> list[str]:
        """The lines that are not in their file yet."""
        return list(self._waiting.get(path, ()))

    def settle(self) -> None:
        """Try everything once more, and tell the user what is lost if nobody makes room before the run ends."""
        for path in [*self._waiting, *self._replacements]:
            self._try(path)
        for path, lines in self._waiting.items():
            print(f"{path.name} lacks its last {len(lines)} rows, which could not be written.", flush=True)
        for path in self._replacements:
            print(f"{path.name} is an older one: the newest could not be written.", flush=True)

    def _try(self, path: Path) -> None:
        lines, text = self._waiting.get(path), self._replacements.get(path)
        try:
            if lines:
                append_text(path, "".join(lines))
            if text is not None:
                replace_text(path, text)
        except OSError as error:
            if not self._told:
                self._told = True
                print(
                    f"{path.name} cannot be written ({error.strerror or error}). Training goes on; rows are held back until there is room.",
                    flush=True,
                )
            return
        self._waiting.pop(path, None)
        self._replacements.pop(path, None)
        if lines and len(lines) > 1:
            print(f"{path.name}: {len(lines)} rows that were held back are written.", flush=True)


def append_text(path: Path, text: str) -> None:
    """Add whole lines to a file: all of them, or none.

    Raises:
        OSError: when the system refuses.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        before = os.fstat(descriptor).st_size
        # What stands there may be half a line, of a process that was killed or that could not take it back.
        torn = before > 0 and os.pread(descriptor, 1, before - 1) != b"\n"
        left = memoryview(("\n" * torn + text).encode())
        try:
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: when the system refuses; the file is then what it was.
    """
    draft = path.with_name(f"{path.name}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)  # on a full disk, room
        raise
