"""What the processes of a run leave for the one that started them: files in the run directory's `ranks/`. No torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import final

from alignkit.errors import signal_exit_code
from alignkit.redaction import redacted
from alignkit.run_dir import RunDir

FOLDER = "ranks"
STOP = "signal"
LOST_PEER = re.compile(
    r"Connection (closed|reset) by (remote )?peer|Connection refused|Broken pipe|NCCL (error|communicator)|heartbeat|was aborted"
)
"""What a rank's backend says when another one has gone: never the reason why that one went."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one rank ended, when it did not end well."""

    rank: int
    error: str
    """Class of what was raised."""
    exit_code: int
    """That of its error: 1 a crash, 2 wrong input, 3 diverged, 130 and 143 interrupted."""
    message: str
    trace: str
    """Its traceback."""
    time: float
    """Seconds since 1970: an error on one rank makes others fail a little later."""

    @property
    def is_consequence(self) -> bool:
        """Whether this rank only noticed that another one was gone."""
        return self.error not in ("UserError", "DivergedError") and LOST_PEER.search(self.message) is not None


@final
@dataclass(frozen=True, slots=True)
class Outcomes:
    """`ranks/`: `N.json` how rank N failed, `N.log` its output, `N.pid` its process."""

    folder: Path

    @classmethod
    def of(cls, run: RunDir) -> Outcomes:
        """Those of a run. Makes nothing."""
        return cls(run.path / FOLDER)

    def clear(self) -> None:
        """Forget earlier processes; their logs stay."""
        self.folder.mkdir(exist_ok=True)
        for file in self.folder.iterdir():
            if file.suffix != ".log":
                file.unlink()

    def remove(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self, rank: int) -> Path:
        """Where the output of a rank goes; that of rank 0 goes to the terminal."""
        return self.folder / f"{rank}.log"

    def arrive(self, rank: int) -> None:
        """Say that this process is a rank.

        Raises:
            SystemExit: when a signal came before it could be passed on.
        """
        draft = self.folder / f"{rank}.pid.part"
        draft.write_text(str(os.getpid()))
        draft.replace(self.folder / f"{rank}.pid")
        if (self.folder / STOP).exists():
            raise SystemExit(signal_exit_code(signal.Signals(int((self.folder / STOP).read_text()))))

    def send(self, number: signal.Signals) -> None:
        """Pass a signal on to all ranks, also to those that are yet to arrive."""
        draft = self.folder / f"{STOP}.part"
        draft.write_text(str(int(number)))
        draft.replace(self.folder / STOP)
        for file in self.folder.glob("*.pid"):
            with suppress(ProcessLookupError):
                os.kill(int(file.read_text()), number)

    def write(self, rank: int, error: BaseException, code: int, message: str) -> Outcome:
        """Leave word of this rank's end."""
        trace = redacted("".join(traceback.format_exception(error)))
        outcome = Outcome(rank=rank, error=type(error).__name__, exit_code=code, message=message, trace=trace, time=time.time())
        draft = self.folder / f"{rank}.json.part"
        draft.write_text(json.dumps(asdict(outcome)) + "\n", encoding="utf-8")
        draft.replace(self.folder / f"{rank}.json")
        return outcome

    def read(self) -> list[Outcome]:
        """What was left: reasons before consequences, the earliest first."""
        return sorted(self._read(), key=lambda outcome: (outcome.is_consequence, outcome.time))

    def _read(self) -> Iterator[Outcome]:
        for file in self.folder.glob("*.json"):
            yield Outcome(**json.loads(file.read_text(encoding="utf-8")))
