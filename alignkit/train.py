"""`python -m alignkit.train`: one run, with `-m` a sweep, with `resume=DIR` the rest of a run or sweep that was stopped.

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
from omegaconf import OmegaConf

from alignkit import help_page
from alignkit.command_line import Command, Job, check_buildable, check_models, is_question, read_command, read_flags
from alignkit.composition import CONFIG_NAME, VERSION_BASE, one_message
from alignkit.configuration import conf_dir, config_yaml
from alignkit.errors import UserError, did_you_mean
from alignkit.job import DONE, ending, resume_job, run_job, show
from alignkit.launching.output import steady_output
from alignkit.launching.placement import check_alone, check_start
from alignkit.resuming.resumption import requeued_run, run_to_resume
from alignkit.run_dir import RunDir
from alignkit.settings import RunSettings
from alignkit.sweeping.command import alone_in, read_again, sweep_to_resume, write_command
from alignkit.sweeping.launch import prepare, run_grid
from alignkit.sweeping.progress import Watch, showing
from alignkit.sweeping.study import best_line, run_study
from alignkit.sweeping.sweep import FAILURE, conclude, plan

ELSEWHERE = ("submitit_slurm",)
"""Launchers whose jobs run on other machines, with processes that Slurm may start."""


@steady_output()
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
        folder = sweep_to_resume(flags)
        if folder is not None:
            return sweep(checked(read_again(folder, flags)), folder)
        stopped = run_to_resume(flags) or requeued_run(argv)
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
        command = read_command(flags)
        if flags.cfg == "job" and flags.package:
            check_package(flags.package, command.jobs[0].settings)
    try:
        call_hydra(sys.argv[1:])
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error
    return 0


def check_package(package: str, settings: RunSettings) -> None:
    """Refuse to show a part of the config that there is not; Hydra would crash.

    Raises:
        UserError: naming those that there are.
    """
    node: object = OmegaConf.to_container(OmegaConf.create(config_yaml(settings)))
    for part in package.split("."):
        keys = [str(key) for key, value in node.items() if isinstance(value, dict)] if isinstance(node, dict) else []
        if not isinstance(node, dict) or part not in keys:
            raise UserError(
                f"--package {package}: there is no {part!r}; {', '.join(keys) or 'nothing'} is there.{did_you_mean(part, keys)}"
            )
        node = node[part]


def sweep(command: Command, begun: Path | None = None) -> int:
    """Run every job through Hydra's launcher, or what is left of a sweep that has `begun`, then say how each job went."""
    changes = [job.changes for job in command.jobs] if command.study is None else []
    folder = begun or plan(command.sweep_dir, changes, named=command.named)
    if begun is None:
        write_command(command, folder)
    total = len(command.jobs) if command.study is None else command.study.settings.trials
    stopped = 0
    with alone_in(folder):
        try:
            left = prepare(folder) if command.study is None else []
            with showing(Watch(folder), total):
                run_grid(command, folder, left) if command.study is None else run_study(command, folder)
        except BaseException as error:
            stopped, message = ending(error)
            show(error, stopped, message, debug=command.jobs[0].settings.debug)
        code = conclude(folder, best=functools.partial(best_line, command) if command.study is not None else None)
    return stopped or code


def call_hydra(arguments: Sequence[str]) -> None:
    """`hydra.main` with these arguments, of which one makes it answer a question. It reads them from `sys.argv` and prints its own errors
    unless told to raise them."""
    typed = sys.argv
    sys.argv = [typed[0], *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with one_message():
            hydra.main(config_path=str(conf_dir()), config_name=CONFIG_NAME, version_base=VERSION_BASE)(lambda cfg: None)()
    finally:
        sys.argv = typed


if __name__ == "__main__":
    sys.exit(main())
