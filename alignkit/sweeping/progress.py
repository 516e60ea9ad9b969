"""What a sweep shows while it runs: one live table of its jobs on a terminal, elsewhere a line when a job starts and one when it ends.

It reads nothing but the jobs' directories, so that it does not matter which launcher runs them, and where.
"""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO, final

import yaml
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from alignkit.launching.output import own_terminal
from alignkit.run_dir import RunDir
from alignkit.summary import number
from alignkit.sweeping.sweep import NOT_RUN, JobRecord, ended, read

PERIOD = 0.5
"""Seconds between two looks."""
SETTLED = 2.0
"""Seconds after which results are the last word of a job."""
TAIL = 16_384
"""Bytes of `metrics.jsonl` that hold the newest rows."""
RUNNING = "running"
OTHER_LINES = 8
"""Lines of a terminal that are not for jobs."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One job as it stands."""

    job: JobRecord
    status: str
    """That of the record, or `running`."""
    step: int
    steps: int | None
    """None until the job has begun."""
    stage: str = ""
    """Which one of a pipeline is running."""
    monitor: str
    """Name of what is watched."""
    value: object
    """Its newest value."""
    seconds: float | None
    """Since the job began."""


class Watching(Protocol):
    """Who sees how the jobs of a sweep stand."""

    def look(self, *, is_last: bool = False) -> list[View]:
        """All jobs, as they stand now, or at the end of the sweep."""
        ...


class Watch:
    """Follows the jobs of a sweep."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configs: dict[str, Mapping[str, Any]] = {}
        self.last: dict[int, View] = {}

    def look(self, *, is_last: bool = False) -> list[View]:
        """All jobs, as they stand now, or at the end of the sweep. Those that have ended are not read again."""
        for job in read(self.folder):
            before = self.last.get(job.job)
            if before is None or before.status in (NOT_RUN, RUNNING):
                self.last[job.job] = self.view(job, is_last=is_last)
        return list(self.last.values())

    def view(self, job: JobRecord, *, is_last: bool) -> View:
        """One job, from its directory."""
        run = RunDir(self.folder / job.run)
        if job.run not in self.configs and run.config.exists() and (config := yaml.safe_load(run.config.read_text(encoding="utf-8"))):
            self.configs[job.run] = config
        config = self.configs.get(job.run)
        record = ended(self.folder, job, still_running=not is_last)
        if record.results and record.exit_code == 0 and not is_last and time.time() - run.results.stat().st_mtime < SETTLED:
            record = job  # results come before the word that the job was interrupted
        if config is None:
            return View(job=record, status=record.status, step=0, steps=None, monitor="", value=None, seconds=None)
        monitor = str(config["loss"]["monitor"])
        rows = newest_rows(run.metrics)
        value = next((row[monitor] for row in reversed(rows) if monitor in row), None)
        seconds = record.results.get("seconds")
        return View(
            job=record,
            status=RUNNING if record.status == NOT_RUN else record.status,
            step=int(rows[-1]["step"]) if rows else 0,
            steps=int(config["steps"]),
            monitor=monitor,
            value=record.results.get(monitor, value),
            seconds=float(seconds) if isinstance(seconds, int | float) else time.time() - run.config.stat().st_mtime,
        )


def newest_rows(metrics: Path) -> list[dict[str, Any]]:
    """The last rows of a file that may be growing: whole lines only."""
    if not metrics.exists():
        return []
    with metrics.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - TAIL))
        lines = file.read().split(b"\n")
    whole = lines[1:-1] if size > TAIL else lines[:-1]
    return [json.loads(line) for line in whole]


@contextmanager
def showing(watch: Watching, total: int) -> Iterator[None]:
    """Show how the jobs of a sweep fare until the block ends. `total`: jobs that there will be."""
    over = threading.Event()
    with own_terminal() as terminal:
        ended = [view.job.job for view in watch.look() if view.status not in (NOT_RUN, RUNNING)]
        follow = follow_live if terminal.isatty() else functools.partial(follow_in_lines, before=ended)
        thread = threading.Thread(target=follow, args=(watch, total, terminal, over.wait), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def follow_in_lines(watch: Watching, total: int, terminal: TextIO, over: Callable[[float], bool], before: Collection[int] = ()) -> None:
    """One line when a job starts, and one when it ends; one for all that had ended `before`."""
    told = dict.fromkeys(before, "")
    if told:
        print(f"{len(told)} of {total} jobs had ended before", file=terminal, flush=True)
    is_last = False
    while not is_last:
        is_last = over(PERIOD)
        for view in watch.look(is_last=is_last):
            name = f"[{view.job.job + 1}/{total}] {view.job.words}"
            if view.status != NOT_RUN and view.job.job not in told:
                told[view.job.job] = RUNNING
                print(f"{name}: started", file=terminal, flush=True)
            if view.status not in (NOT_RUN, RUNNING) and told.get(view.job.job) == RUNNING:
                told[view.job.job] = view.status
                print(f"{name}: {ending_line(view)}", file=terminal, flush=True)


def ending_line(view: View) -> str:
    """`done in 12.3 s, val/loss 0.5`."""
    took = f" in {view.seconds:.1f} s" if view.seconds is not None else ""
    reached = f", {view.monitor} {number(view.value)}" if view.value is not None else ""
    return f"{view.status}{took}{reached}"


def follow_live(watch: Watching, total: int, terminal: TextIO, over: Callable[[float], bool]) -> None:
    """One table, drawn anew."""
    console = Console(file=terminal)
    with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False) as live:
        while True:
            is_last = over(PERIOD)
            live.update(live_table(watch.look(is_last=is_last), total, room=console.height - OTHER_LINES), refresh=True)
            if is_last:
                return


def live_table(views: Sequence[View], total: int, *, room: int) -> Group:
    """A line a job: what sets it apart, how it stands, its step, what is watched, seconds. Where there is no room for all, the newest."""
    begun = [view for view in views if view.status != NOT_RUN]
    shown = sorted(begun, key=lambda view: view.status == RUNNING)[-max(1, room) :]
    monitors = {view.monitor for view in begun if view.monitor}
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("job", "overrides", "status", "step", next(iter(monitors)) if len(monitors) == 1 else "monitor", "seconds"):
        table.add_column(Text(heading), justify="left" if heading in ("overrides", "status") else "right")
    for view in sorted(shown, key=lambda view: view.job.job):
        table.add_row(
            str(view.job.job),
            Text(view.job.words),
            view.status,
            " ".join(filter(None, (view.stage, "" if view.steps is None else f"{view.step}/{view.steps}"))),
            number(view.value),
            "" if view.seconds is None else f"{view.seconds:.0f}",
        )
    counts = [f"{sum(view.status == status for view in begun)} {status}" for status in dict.fromkeys(view.status for view in begun)]
    waiting = total - len(begun)
    return Group(table, Text(", ".join([*counts, *([f"{waiting} waiting"] if waiting else [])])))
