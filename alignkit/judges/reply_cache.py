"""Replies of language models that were paid for, by what was asked: one SQLite file, which several processes may use at once."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import final

from filelock import FileLock

from alignkit.caches.place import short

FILE = "replies-1.sqlite"
"""The number is that of the format."""
JOURNAL = "-journal"
"""SQLite's own file beside it, while something is written: what a killed process has begun is undone from it."""
WAITING = 60.0
"""Seconds for another process to finish its writing."""
AT_ONCE = 500
"""Digests of one query; SQLite takes 999 at least."""
TABLE = "CREATE TABLE IF NOT EXISTS replies (digest TEXT PRIMARY KEY, text TEXT NOT NULL, checksum TEXT NOT NULL)"
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_IOERR_SHORT_READ)
"""SQLite's codes for a file that is not as it was written; others say that it cannot be used now: read-only, locked, no room."""

Work = Callable[[sqlite3.Connection], dict[str, str]]


@final
class ReplyCache:
    """Texts by digest. What is written is on disk, whole, or not there at all, whenever the process is killed.

    A damaged file is put aside and said so, and nothing is ever read from it that was not written: each row holds its own checksum.
    Where the file cannot be used, replies are kept in memory alone.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        """`say` tells the user a line. Nothing is made or opened."""
        self.file = folder / FILE
        self._say = say
        self._kept: dict[str, str] = {}
        self._usable = True

    def read(self, digests: Sequence[str]) -> dict[str, str]:
        """The texts that are there."""
        missing = [digest for digest in dict.fromkeys(digests) if digest not in self._kept]
        parts = [missing[start : start + AT_ONCE] for start in range(0, len(missing), AT_ONCE)]
        if parts and self.file.exists():
            self._kept |= self._on_disk(lambda database: {key: text for part in parts for key, text in _rows(database, part).items()})
        return {digest: self._kept[digest] for digest in digests if digest in self._kept}

    def write(self, digest: str, text: str) -> str:
        """Keep a text. Returns the one that is kept: what another process has written first stays."""

        def insert(database: sqlite3.Connection) -> dict[str, str]:
            database.execute("INSERT OR IGNORE INTO replies VALUES (?, ?, ?)", (digest, text, _checksum(digest, text.encode())))
            return _rows(database, [digest])

        self._kept[digest] = self._on_disk(insert).get(digest, text)
        return self._kept[digest]

    def _on_disk(self, work: Work) -> dict[str, str]:
        """What `work` returns, if need be of a new file; nothing where none can be used. The file is open for this one use: a process
        that is forked, killed or put to sleep between two of them holds nothing."""
        for _ in range(2 if self._usable else 0):
            before = self._identity()
            try:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                with closing(sqlite3.connect(self.file, timeout=WAITING, isolation_level=None)) as database:
                    database.text_factory = bytes  # damaged text need not be UTF-8
                    database.execute(TABLE)
                    return work(database)
            except sqlite3.DatabaseError as error:
                code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
                if code not in DAMAGED and code & 0xFF not in DAMAGED:
                    self._give_up(f"cannot be used ({error})")
                else:
                    self._set_aside(before, str(error))
            except OSError as error:
                self._give_up(f"cannot be used ({error.strerror or error})")
        return {}

    def _identity(self) -> int | None:
        try:
            return self.file.stat().st_ino
        except OSError:
            return None

    def _set_aside(self, damaged: int | None, reason: str) -> None:
        """Under a lock, and only the file that was found damaged: another process may have put it aside and begun a new one."""
        bad = self.file.with_name(f"{FILE}.{time.time_ns()}.bad")
        try:
            with FileLock(self.file.with_name("lock")):
                if self._identity() != damaged:
                    return
                journal = self.file.with_name(FILE + JOURNAL)
                if journal.exists():  # else it would be taken for the new file's
                    journal.replace(bad.with_name(bad.name + JOURNAL))
                self.file.replace(bad)
        except (OSError, NotImplementedError) as error:
            self._give_up(f"is damaged ({reason}) and cannot be put aside ({error})")
        else:
            self._say(f"{short(self.file)} is damaged ({reason}) and was put aside as {bad.name}; what it held is asked again.")

    def _give_up(self, why: str) -> None:
        if self._usable:
            self._say(f"{short(self.file)} {why}, so replies are kept in memory for this command alone.")
        self._usable = False


def _rows(database: sqlite3.Connection, digests: Sequence[str]) -> dict[str, str]:
    """The texts of these digests, verified. Raises sqlite3.DatabaseError on one that is not what was written."""
    places = ", ".join("?" for _ in digests)
    found = {}
    for digest, text, checksum in database.execute(f"SELECT * FROM replies WHERE digest IN ({places})", list(digests)):
        whole = isinstance(digest, bytes) and isinstance(text, bytes) and isinstance(checksum, bytes)
        key = digest.decode(errors="replace") if whole else ""
        if not whole or checksum.decode(errors="replace") != _checksum(key, text):
            raise sqlite3.DatabaseError("a checksum is wrong")
        found[key] = text.decode()
    return found


def _checksum(digest: str, text: bytes) -> str:
    return hashlib.sha256(digest.encode() + b" " + text).hexdigest()
