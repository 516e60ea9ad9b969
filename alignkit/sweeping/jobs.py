"""One job of a sweep, in whatever process the launcher chose, and where it can in one of its own."""

from __future__ import annotations

import functools
import importlib
import json
import os
import shutil
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from alignkit.configuration import check_config
from alignkit.errors import UserError, signal_exit_code
from alignkit.job import CRASHED, DONE, INTERRUPTED, carry_out, ending, show, train_somewhere
from alignkit.launching.agreement import agreed_run
from alignkit.launching.launcher import PASSED_ON, killed_by
from alignkit.launching.output import output_in
from alignkit.launching.own_process import NVML_CHECK, Ending, apart, can_part
from alignkit.launching.placement import placement
from alignkit.manifests import step_checkpoints
from alignkit.resuming.changes import check_same
from alignkit.resuming.resumption import read_settings
from alignkit.row_files import replace_text
from alignkit.run_dir import RunDir
from alignkit.run_lock import only_here
from alignkit.sweeping.sweep import FAILURE, LOG, STOPS, JobRecord

SHARING = ("basic", "joblib")
"""Launchers that run several jobs in one process, which a job that is killed would take with it."""
KEPT = (LOG, "wandb")
"""What a job that begins again leaves in its directory."""


def run_sweep_job(cfg: DictConfig) -> int:
    """Hydra's task. A failure is a file, so that other jobs go on, and so is the end of a job that was killed.

    Raises:
        KeyboardInterrupt, SystemExit: when the whole sweep is to stop.
    """
    hydra = HydraConfig.get()
    folder = Path(hydra.sweep.dir)
    run = RunDir(folder / hydra.sweep.subdir)
    run.path.mkdir(exist_ok=True)
    work = functools.partial(work_on, cfg, run, group=folder.name)
    if hydra.runtime.choices["hydra/launcher"] in SHARING and can_part():
        import_once()
        ending_of_job = apart(work)
    else:
        ending_of_job = Ending(work(), [])
    code = with_a_word(run, ending_of_job.code)
    if code in STOPS or ending_of_job.received:
        # A signal may have come too late for the job.
        raise stop(run, code if code in STOPS else signal_exit_code(ending_of_job.received[0]))
    return code


def with_a_word(run: RunDir, code: int) -> int:
    """The exit code of a job whose process ended with this one; one that was killed leaves no word of it itself."""
    if -code in PASSED_ON:  # before the job knew how to stop
        number = signal.Signals(-code)
        code = signal_exit_code(number)
        leave_word(run, code, f"stopped by {number.name}.", error="")
    elif code < DONE:
        words, code = f"its process was {killed_by(-code)}", CRASHED
        leave_word(run, code, words, error="")
    elif code != DONE and not (run.path / FAILURE).exists():
        leave_word(run, code, f"its process ended with exit code {code} and without a word; see {LOG}.", error="")
    return code


def stop(run: RunDir, code: int) -> BaseException:
    """What ends the whole sweep."""
    failure = run.path / FAILURE
    message = json.loads(failure.read_text(encoding="utf-8"))["message"] if failure.exists() else ""
    return KeyboardInterrupt(message) if code == INTERRUPTED else SystemExit(code)


def import_once() -> None:
    """Import what every job needs before its process parts from this one, which takes seconds otherwise."""
    os.environ.setdefault(NVML_CHECK, "1")
    importlib.import_module("alignkit.training")


def work_on(cfg: DictConfig, run: RunDir, *, group: str) -> int:
    """Begin a job, or go on with it where it left a checkpoint. Returns its exit code, after leaving word of it."""
    debug = False
    with output_in(run.path / LOG):
        try:
            settings = check_config(cfg)
            debug = settings.debug
            place = placement(settings.hardware)
            with only_here(run.path) if place is None or place.rank == 0 else nullcontext():
                if has_checkpoint(run):
                    begun = read_settings(run, allow_code=settings.allow_code)
                    check_same(run, begun)
                    train_somewhere(begun, run, resume=True)
                else:
                    logger = settings.logger if settings.logger.group else replace(settings.logger, group=group)
                    carry_out(replace(settings, logger=logger), agreed_run(place, lambda: RunDir.create(run.path)))
        except BaseException as error:
            code, message = ending(error)
            if isinstance(error, SystemExit) and code not in STOPS and message in ("", str(code)):
                message = f"left with exit code {code} before it was done."
                code = code or CRASHED
            show(error, code, message, debug=debug)
            leave_word(run, code, message, error=type(error).__name__)
            return code
    return DONE


def leave_word(run: RunDir, code: int, message: str, *, error: str) -> None:
    """Write `failure.json`."""
    replace_text(run.path / FAILURE, json.dumps({"exit_code": code, "message": message, "error": error}) + "\n")


def has_checkpoint(run: RunDir) -> bool:
    """Whether a job was stopped after its first checkpoint, whole or not."""
    return bool(step_checkpoints(run.checkpoints)) or run.last_checkpoint.exists()


def make_ready(folder: Path, job: JobRecord) -> None:
    """Leave of a job's earlier attempt what it goes on from, or where there is no checkpoint nothing but its log.

    Raises:
        UserError: when its directory is none of the sweep's.
    """
    run = RunDir(folder / job.run)
    if Path(job.run).name != job.run or run.path.resolve() != run.path:
        raise UserError(f"resume = {folder}: job {job.job} lies outside of it, at {job.run}.")
    if not run.path.is_dir():
        return
    goes_on = has_checkpoint(run)
    for file in run.path.iterdir():
        if file.name in (FAILURE, run.results.name) or (not goes_on and file.name not in KEPT):
            shutil.rmtree(file) if file.is_dir() and not file.is_symlink() else file.unlink()
