"""`python -m alignkit.train`: one run, with `-m` a sweep, with `resume=DIR` the rest of a run that was stopped.

Nothing heavy is imported until the config is known to be good.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import hydra

from alignkit import help_page
from alignkit.command_line import Command, Job, check_buildable, check_models, is_question, read_command, read_flags
from alignkit.composition import CONFIG_NAME, VERSION_BASE, one_message
from alignkit.configuration import conf_dir
from alignkit.errors import UserError
from alignkit.job import DONE, ending, resume_job, run_job, show
from alignkit.resumption import run_to_resume
from alignkit.run_dir import RunDir
from alignkit.settings import RunSettings
from alignkit.sweep import FAILURE, conclude, plan, run_sweep_job


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
        stopped = run_to_resume(flags)
        if stopped is not None:
            return resume(*stopped)
        command = read_command(flags)
        check_models(command.jobs)
        check_buildable(command.jobs)
        if command.multirun:
            return sweep(command)
        return run_job(command.jobs[0].settings, named=command.named)
    except BaseException as error:
        code, message = ending(error)
        show(error, code, message, debug="debug=true" in map(str.lower, argv))
        return code


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


def sweep(command: Command) -> int:
    """Run every job through Hydra's launcher, then say how each went."""
    folder = plan(command.sweep_dir, [job.changes for job in command.jobs], named=command.named)
    quoted = str(folder).replace("\\", "\\\\").replace("'", "\\'")
    flags = ["--config-dir", command.config_dir] if command.config_dir else []
    stopped = 0
    try:
        call_hydra(["--multirun", *flags, *command.overrides, f"hydra.sweep.dir='{quoted}'"])
    except BaseException as error:
        stopped, message = ending(error)
        show(error, stopped, message, debug=command.jobs[0].settings.debug)
    code = conclude(folder)
    return stopped or code


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
