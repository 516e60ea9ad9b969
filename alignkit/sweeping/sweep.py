"""A sweep: one run directory a job, and `sweep.json`, which says who is who and how each ended.

The jobs may run in other processes or on other machines, so all that passes between them and the sweep are files.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import final

from alignkit.errors import DivergedError, UserError
from alignkit.job import CRASHED, DONE, HUNG_UP, INTERRUPTED, TERMINATED
from alignkit.run_dir import RunDir, Scalar, jsonable
from alignkit.summary import print_table, sweep_table
from alignkit.terminal import harmless

SWEEP = "sweep.json"
FAILURE = "failure.json"
"""In the run directory of a job that did not end well: its exit code, message and the class of what was raised."""
LOG = "log.txt"
"""In the run directory of a job: what it printed."""
NOT_RUN = "not run"
LONGEST_NAME = 100
"""Characters of a job's directory; file systems allow 255 bytes."""
STOPS = (HUNG_UP, INTERRUPTED, TERMINATED)
"""Exit codes of jobs that end the whole sweep: somebody wants it to stop."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class JobRecord:
    """One job in `sweep.json`."""

    job: int
    overrides: list[str]
    """What sets the job apart, as typed."""
    status: str = NOT_RUN
    """`not run`, `done`, `pruned` (stopped because it did worse than others), `failed` or `interrupted`."""
    exit_code: int | None = None
    message: str = ""
    """Why it failed."""
    run: str
    """Its run directory, inside the sweep's."""
    arm: str = ""
    """Of a job of an experiment: its name of the part of the sweep that the job belongs to."""
    results: dict[str, Scalar] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The job for people: its arm and what sets it apart there."""
        return " ".join(filter(None, (self.arm, *self.overrides)))


def plan(path: str, changes: Sequence[Sequence[str]], *, named: bool) -> Path:
    """Make the sweep's directory and write down which job goes where. `named`: the user chose the directory.

    Raises:
        UserError: when it holds a sweep or a run already, or cannot be written.
    """
    width = len(str(len(changes) - 1))
    jobs = [JobRecord(job=number, overrides=list(job), run=f"{number:0{width}}{slug(job)}") for number, job in enumerate(changes)]
    for number in itertools.count(1):
        folder = Path(path if number == 1 else f"{path}-{number}").expanduser().resolve()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if RunDir(folder).config.exists():
                raise FileExistsError
            os.close(os.open(folder / SWEEP, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            if named:
                raise UserError(f"run_dir = {folder}: is taken already. Choose another, e.g. run_dir={folder}-2.") from None
            continue
        except OSError as error:
            raise UserError(f"run_dir = {folder}: cannot be written ({error.strerror}). Choose another with run_dir=DIR.") from None
        write(folder, jobs)
        return folder
    raise AssertionError("count() does not end")


def slug(changes: Sequence[str]) -> str:
    """`-beta=0.1,epsilon=0`: a job's overrides as part of a directory's name."""
    pairs = (change.partition("=") for change in changes)
    name = "-" * bool(changes) + ",".join(f"{key.rpartition('.')[2]}={value}" for key, _, value in pairs)
    safe = re.sub(r"[^\w.=,+-]+", "_", name)
    return safe if len(safe) <= LONGEST_NAME else f"{safe[: LONGEST_NAME - 9]}-{hashlib.sha256(safe.encode()).hexdigest()[:8]}"


def conclude(folder: Path, best: Callable[[Sequence[JobRecord]], str | None] | None = None) -> int:
    """Read how each job ended from its directory, write `sweep.json`, print the table, name the jobs that failed and say how to go on.

    `best`: says which job of a study was sought, in a line.

    Returns:
        The sweep's exit code: 0 when all jobs worked, else 1.
    """
    jobs = [ended(folder, job) if job.status == NOT_RUN else job for job in read(folder)]
    write(folder, jobs)
    print_table(sweep_table([asdict(job) for job in jobs]))
    for job in jobs:
        if job.exit_code:
            print(f"job {job.job} ({' '.join(job.overrides)}) {job.status}: {harmless(job.message)}", file=sys.stderr)
    if waiting := sum(job.exit_code is None for job in jobs):
        print(f"{waiting} of {len(jobs)} jobs were not run.", file=sys.stderr)
    if best is None and (left := sum(is_left(folder, job) for job in jobs)):
        print(f"{left} of {len(jobs)} jobs are left. Run them with: python -m alignkit.train resume={folder}", file=sys.stderr)
    if best is not None and (line := best(jobs)) is not None:
        print(line)
    print(f"run: {folder}", flush=True)
    # A job of a study that was interrupted has been run again since; one of a sweep that was is not the last word on its exit code.
    return DONE if all(job.exit_code == DONE or job.status == "interrupted" for job in jobs) else CRASHED


def ended(folder: Path, job: JobRecord, *, still_running: bool = False) -> JobRecord:
    """A job's record with what its directory says. One that has begun and left no word has failed, unless it may be `still_running`."""
    run = RunDir(folder / job.run)
    results = json.loads(run.results.read_text()) if run.results.exists() else {}
    if (run.path / FAILURE).exists():
        failure = json.loads((run.path / FAILURE).read_text())
        status = "interrupted" if failure["exit_code"] in STOPS else "failed"
        return replace(job, status=status, exit_code=failure["exit_code"], message=failure["message"], results=results)
    if results:
        status = "pruned" if run.pruned.exists() else "done"
        return replace(job, status=status, exit_code=DONE, results=results)
    if run.config.exists() and not still_running:
        return replace(job, status="failed", exit_code=CRASHED, message="ended without a word: was the process killed, or out of memory?")
    return job


def is_left(folder: Path, job: JobRecord) -> bool:
    """Whether a sweep that is resumed runs a job (again). One that diverged would do the same again."""
    if job.status != "failed":
        return job.status in (NOT_RUN, "interrupted")
    failure = folder / job.run / FAILURE
    return not failure.exists() or json.loads(failure.read_text(encoding="utf-8")).get("error") != DivergedError.__name__


def read(folder: Path) -> list[JobRecord]:
    """The jobs of a sweep.

    Raises:
        UserError: when `sweep.json` cannot be read, or a job's directory would lie elsewhere than in the sweep's.
    """
    try:
        jobs = [JobRecord(**job) for job in json.loads((folder / SWEEP).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{folder / SWEEP}: cannot be read ({error}).") from None
    for job in jobs:
        if job.run in ("", ".", "..") or "/" in job.run or "\0" in job.run:
            raise UserError(f"{folder / SWEEP}: the directory of job {job.job} is {job.run!r}, which is no name. Who made this file?")
    return jobs


def write(folder: Path, jobs: Sequence[JobRecord]) -> None:
    """Write `sweep.json` whole or not at all."""
    rows = [asdict(job) | {"results": {name: jsonable(value) for name, value in job.results.items()}} for job in jobs]
    draft = folder / f"{SWEEP}.part"
    draft.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(folder / SWEEP)
