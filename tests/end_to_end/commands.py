"""Commands in processes of their own that have imported everything already."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, final


@final
class Commands:
    """Runs alignkit's commands, each in a new process that is forked from one server; see `run_server.py`."""

    def __init__(self, orders: IO[str], codes: IO[str], folder: Path) -> None:
        self.orders = orders
        self.codes = codes
        self.folder = folder

    def __call__(self, *argv: str, log: Path, folder: Path | None = None, **order: Any) -> int:
        """Run one command in a folder, an empty one unless it is given, add what it prints to a file, and return its exit code.

        `command`, `environment`, `constants` and `signal`, `at` and `call` are those of an order.
        """
        return self.together(self.order(*argv, log=log, folder=folder, **order))[0]

    def order(self, *argv: str, log: Path, folder: Path | None = None, **order: Any) -> dict[str, Any]:
        """What `together` is given."""
        return {"argv": argv, "log": str(log), "folder": str(folder or self.folder), **order}

    def together(self, *orders: dict[str, Any]) -> list[int]:
        """Run commands at the same time and return their exit codes."""
        self.orders.write(json.dumps(orders) + "\n")
        self.orders.flush()
        codes: list[int] = json.loads(self.codes.readline())
        return codes


@contextmanager
def serving(folder: Path) -> Iterator[Commands]:
    """A server of commands; `folder`: an empty one, where they are run."""
    server = [sys.executable, str(Path(__file__).with_name("run_server.py"))]
    with subprocess.Popen(server, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Commands(process.stdin, process.stdout, folder)
        process.stdin.close()
