"""`python -m alignkit.train`: one run, with `-m` a sweep, with `resume=DIR` the rest of a run that was stopped.

Nothing heavy is imported until the config is known to be good.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra

from alignkit import help_page
from alignkit.command_line import Command, Job, check_buildable, check_models, is_question, read_command, read_flags
from alignkit.composition import CONFIG_NAME, VERSION_BASE, one_message
from alignkit.configuration import conf_dir
from alignkit.errors import UserError
from alignkit.job import DONE, ending, resume_job, run_job, show
from alignkit.launching.placement import check_alone, check_start
from alignkit.resumption import run_to_resume
from alignkit.run_dir import RunDir
from alignkit.settings import RunSettings
from alignkit.study import arguments_of, begin_study, best_line, run_study, study_to_resume
from alignkit.sweep import FAILURE, conclude, plan, run_sweep_job
from alignkit.sweep_progress import Watch, showing

ELSEWHERE = ("submitit_slurm",)
"""Launchers whose jobs run on other machines, with processes that Slurm may start."""


def main() -> int:
    """The command.

    Returns:
        The exit code: 0 done, 1 a crash, 2 wrong input, 3 diverged, 130 and 143 interrupted.
    """
    argv = sys.argv[1:]
    try:
        flags = read_flags(argv)
        if is_question(flags):
            return answer(flags)
        folder = study_to_resume(flags)
        if folder is not None:
            return sweep(checked(read_command(read_flags(arguments_of(folder)))), folder)
        stopped = run_to_resume(flags)
        if stopped is not None:
            return resume(*stopped)
        command = checked(read_command(flags))
        if command.multirun:
            return sweep(command)
        return run_job(command.jobs[0].settings, named=command.named)
    except BaseException as error:
        code, message = ending(error)
        show(error, code, message, debug="debug=true" in map(str.lower, argv))
        return code


def checked(command: Command) -> Command:
    """The command, once nothing that is known to be wrong with it is left, whatever it would cost to find out later.

    Raises:
        UserError: on the first mistake.
    """
    if command.multirun:
        check_alone()
    for hardware in {job.settings.hardware for job in command.jobs} if command.launcher not in ELSEWHERE else ():
        check_start(hardware)
    check_models(command.jobs)
    check_buildable(command.jobs)
    return command


def resume(run: RunDir, settings: RunSettings) -> int:
    """Go on with a run that was stopped."""
    jobs = [Job(changes=(), settings=settings)]
    check_models(jobs)
    check_buildable(jobs)
    code = resume_job(settings, run)
    if code == DONE:
        (run.path / FAILURE).unlink(missing_ok=True)  # of a job of a sweep
    return code


def answer(flags: argparse.Namespace) -> int:
    """Let Hydra show its help, the config or completions.

    Raises:
        UserError: when flags exclude each other, or the config that is asked for is wrong.
    """
    help_page.register()
    if flags.cfg:
        read_command(flags)
    try:
        call_hydra(sys.argv[1:])
    except ValueError as error:
        raise UserError(str(error)) from error
    return 0


def sweep(command: Command, stopped_study: Path | None = None) -> int:
    """Run every job through Hydra's launcher, or go on with a study that was stopped, then say how each job went."""
    changes = [job.changes for job in command.jobs] if command.study is None else []
    folder = stopped_study or plan(command.sweep_dir, changes, named=command.named)
    stopped = 0
    try:
        if command.study is None:
            with showing(Watch(folder), len(command.jobs)):
                run_grid(command, folder)
        else:
            if stopped_study is None:
                begin_study(command, folder)
            with showing(Watch(folder), command.study.settings.trials):
                run_study(command, folder)
    except BaseException as error:
        stopped, message = ending(error)
        show(error, stopped, message, debug=command.jobs[0].settings.debug)
    code = conclude(folder, best=functools.partial(best_line, command) if command.study is not None else None)
    return stopped or code


def run_grid(command: Command, folder: Path) -> None:
    """Hydra's own sweep over every combination."""
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    flags = ["--config-dir", command.config_dir] if command.config_dir else []
    call_hydra(["--multirun", *flags, *command.overrides, f"hydra.sweep.dir='{quoted}'"])


def call_hydra(arguments: Sequence[str]) -> None:
    """`hydra.main` with these arguments. It reads them from `sys.argv` and prints its own errors unless told to raise them."""
    typed = sys.argv
    sys.argv = [typed[0], *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with one_message():
            hydra.main(config_path=str(conf_dir()), config_name=CONFIG_NAME, version_base=VERSION_BASE)(run_sweep_job)()
    finally:
        sys.argv = typed


if __name__ == "__main__":
    sys.exit(main())
