"""A run under Slurm: put back into the queue before its time is over, and found again by the same command when it comes up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from alignkit.caches.place import cache_root
from alignkit.row_files import replace_text
from alignkit.run_dir import RunDir

JOB = "SLURM_JOB_ID"
ARRAY, TASK = "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"
RESTARTS = "SLURM_RESTART_COUNT"
"""Set by Slurm in a job that was requeued, by us, an administrator, or a node that failed."""
REQUEUE_SECONDS = 60


def job_name() -> str | None:
    """What `scontrol` calls this job; None where there is none."""
    if os.environ.get(ARRAY) and os.environ.get(TASK):
        return f"{os.environ[ARRAY]}_{os.environ[TASK]}"
    return os.environ.get(JOB) or None


def note_run(run: RunDir, argv: Sequence[str] | None = None) -> None:
    """Keep the directory of the run that this job's command has begun, for the same command after a restart."""
    job = job_name()
    if job is None:
        return
    with suppress(OSError):  # then a restart begins anew, as without it
        path = _record(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps({"typed": list(sys.argv[1:] if argv is None else argv), "run": str(run.path)}) + "\n")


def noted_run(argv: Sequence[str]) -> Path | None:
    """The run that this command began before Slurm restarted the job; None where it is the first time, or began none."""
    job = job_name()
    if job is None or not os.environ.get(RESTARTS, "0").isdecimal() or int(os.environ.get(RESTARTS, "0")) == 0:
        return None
    try:
        record = json.loads(_record(job).read_text(encoding="utf-8"))
        run = RunDir(Path(record["run"]))
        return run.path if record["typed"] == list(argv) and run.config.is_file() and run.config.stat().st_size > 0 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def requeue() -> str:
    """Put this job back into the queue; a sentence on how that went. The state must lie on the disk."""
    job = job_name()
    if job is None:
        return "This is no Slurm job, so nobody starts it again."
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=REQUEUE_SECONDS, check=False)
        reason = "" if done.returncode == 0 else (done.stderr or done.stdout).strip().partition("\n")[0] or f"exit code {done.returncode}"
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    return f"Job {job} could not be requeued ({reason})." if reason else f"Job {job} is requeued, and goes on from here."


def _record(job: str) -> Path:
    name = "".join(letter for letter in job if letter.isalnum() or letter == "_")
    return cache_root(None) / "requeued" / f"{name}.json"
