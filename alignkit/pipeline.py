"""`python -m alignkit.pipeline`: several runs as one command, each of which goes on from the ones before."""

from __future__ import annotations

import itertools
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from alignkit.command_line import is_question, read_flags
from alignkit.errors import UserError
from alignkit.help_page import head_comment
from alignkit.job import CRASHED, DONE, WRONG_INPUT, ending, show
from alignkit.pipelines.costs import costs_table, measure, write_costs
from alignkit.pipelines.experiment import Experiment, unfold
from alignkit.pipelines.files import pipeline_files, read_pipeline
from alignkit.pipelines.stage_runs import RECORD, PlacedPipeline, check_finished, place, run_stages
from alignkit.pipelines.stages import PipelineCommand, read_command
from alignkit.pipelines.tables import jobs_table, stages_table
from alignkit.run_dir import RunDir
from alignkit.summary import print_table
from alignkit.sweep import STOPS, SWEEP, JobRecord, slug, write

LOCK = "pipeline.lock"
HELP = """\
alignkit-pipeline runs several stages as one command: each is a run of alignkit.train that goes on from the ones before.

  python -m alignkit.pipeline pipeline=NAME [key=value ...] [stages.STAGE.key=value ...]

Examples
  python -m alignkit.pipeline pipeline=rlhf                                            supervised, reward model, PPO; offline, minutes
  python -m alignkit.pipeline pipeline=dpo model=gpt2 dataset=hh_rlhf                  keys of a run are for all stages
  python -m alignkit.pipeline pipeline=rlhf stages.ppo.loss.kl_coefficient=0.02        after stages.STAGE. they are for one
  python -m alignkit.pipeline experiment=cost_of_alignment                             RLHF, DPO and DPH side by side: what each costs
  python -m alignkit.pipeline -m pipeline=rlhf,dpo seed=0,1,2 stages.ppo.loss.kl_coefficient=0.01,0.05
                                                          a sweep: every combination; a stage that jobs have in common is run once

A stage's directory in the pipeline's is that of an ordinary run, and pipeline.json says how each stage ended. After an interruption type
the same command with run_dir=DIR: a finished stage is not run again.

Pipelines: pipeline=NAME
{pipelines}

A pipeline is a YAML file; -cd DIR adds those of DIR/pipeline. It lists stages with their `options`, which give way to all that is typed,
and with what ties them to earlier stages, `from`, which gives way to stages.STAGE. alone. {{sft}} is the directory of stage sft:
  python -m alignkit.pipeline pipeline=rlhf 'stages.ppo.model.path={{reward}}/model'

All groups and keys of a run: python -m alignkit.train --help
"""


def main() -> int:
    """The command.

    Returns:
        The exit code: 0 done, 1 a crash or a sweep with a failed job, 2 wrong input, 3 diverged, 130 and 143 interrupted.
    """
    argv = sys.argv[1:]
    try:
        flags = read_flags(argv)
        if is_question(flags):
            return answer(flags)
        flags, experiment = unfold(flags)
        command = read_command(flags)
        with claimed(command) as folder:
            return sweep(command, folder, experiment) if command.multirun else run_one(command, folder)
    except BaseException as error:
        code, message = ending(error)
        show(error, code, message, debug="debug=true" in map(str.lower, argv))
        return code


def answer(flags: Namespace) -> int:
    """Print the help page.

    Raises:
        UserError: on the other questions.
    """
    if not flags.help:
        raise UserError(
            "alignkit.pipeline has no config of its own to show. Type --help, or for a stage's: python -m alignkit.train --cfg job."
        )
    files = pipeline_files(flags.config_dir)
    width = max(map(len, files), default=0)
    lines = []
    for name, file in files.items():
        lines.append(f"  {name:{width}}  {head_comment(file.read_text(encoding='utf-8'))}")
        lines.append(f"  {'':{width}}  stages: {' '.join(read_pipeline(name, flags.config_dir).stage_names)}")
    print(HELP.format(pipelines="\n".join(lines)), end="")
    return DONE


@contextmanager
def claimed(command: PipelineCommand) -> Iterator[Path]:
    """The directory of a pipeline or a sweep, which no other process may use meanwhile. One that the user chose may hold what an earlier
    call of the same command left.

    Raises:
        UserError: when it holds something else, is in use, or cannot be written.
    """
    own, other = (SWEEP, RECORD) if command.multirun else (RECORD, SWEEP)
    for number in itertools.count(1):
        folder = Path(command.folder if number == 1 else f"{command.folder}-{number}").expanduser().resolve()
        if command.named and (RunDir(folder).config.exists() or (folder / other).exists()):
            raise UserError(f"run_dir = {folder}: holds no {own}, but something else of alignkit's. Choose another, e.g. {folder}-2.")
        lock = FileLock(folder / LOCK, timeout=0)
        try:
            folder.mkdir(parents=True, exist_ok=command.named)
            lock.acquire()
        except Timeout:
            raise UserError(f"run_dir = {folder}: another process is at work there. Choose another with run_dir=DIR.") from None
        except OSError as error:
            if isinstance(error, FileExistsError) and not command.named:
                continue
            raise UserError(f"run_dir = {folder}: cannot be written ({error.strerror}). Choose another with run_dir=DIR.") from None
        break
    try:
        yield folder
    finally:
        lock.release()


def run_one(command: PipelineCommand, folder: Path) -> int:
    """Run one pipeline and say how it went.

    Returns:
        The exit code.
    """
    (placed,) = place(command.pipelines, [folder])
    check_finished([placed])
    try:
        print_table(stages_table(run_stages(placed, group=folder.name)))
    except BaseException as error:
        code, message = ending(error)
        show(error, code, message, debug=command.debug)
        if not (code == WRONG_INPUT and left_nothing(folder)):
            say_how_to_go_on(folder)
        return code
    print(f"run: {folder}", flush=True)
    return DONE


def sweep(command: PipelineCommand, folder: Path, experiment: Experiment | None = None) -> int:
    """Run each pipeline of a sweep; one that fails does not keep the others from running, one that is interrupted does. An experiment
    ends with the table of what it cost.

    Returns:
        The exit code.
    """
    width = len(str(len(command.pipelines) - 1))
    names = [f"{number:0{width}}{slug(pipeline.changes)}" for number, pipeline in enumerate(command.pipelines)]
    placed = place(command.pipelines, [folder / name for name in names])
    check_finished(placed)
    jobs = [JobRecord(job=number, overrides=list(pipeline.changes), run=names[number]) for number, pipeline in enumerate(command.pipelines)]
    code = DONE
    for number, pipeline in enumerate(placed):
        write(folder, jobs)
        print(f"[{number + 1}/{len(jobs)}] {' '.join(pipeline.pipeline.changes)}", flush=True)
        jobs[number], code = run_sweep_job(jobs[number], pipeline, folder, debug=command.debug)
        if code in STOPS:
            break
    write(folder, jobs)
    if experiment is not None:
        measured = [measure(pipeline, experiment.target) for pipeline, job in zip(placed, jobs, strict=True) if job.status == "done"]
        write_costs(folder, measured, experiment.target)
        print_table(costs_table(measured, experiment.target))
    return conclude(jobs, placed, folder, stopped=code if code in STOPS else None)


def run_sweep_job(job: JobRecord, placed: PlacedPipeline, folder: Path, *, debug: bool) -> tuple[JobRecord, int]:
    """One pipeline of a sweep: its record with how it ended, and the exit code."""
    try:
        records = run_stages(placed, group=folder.name)
    except BaseException as error:
        code, message = ending(error)
        show(error, code, message, debug=debug)
        return replace(job, status="interrupted" if code in STOPS else "failed", exit_code=code, message=message), code
    return replace(job, status="done", exit_code=DONE, results=records[-1].results), DONE


def conclude(jobs: Sequence[JobRecord], placed: Sequence[PlacedPipeline], folder: Path, *, stopped: int | None) -> int:
    """Print the table of a sweep and name the jobs that failed.

    Returns:
        The exit code.
    """
    headlines = [last.stage.kind.headline(last.settings)[0] for last in (pipeline.stages[-1] for pipeline in placed)]
    print_table(jobs_table(jobs, headlines))
    for job in jobs:
        if job.exit_code:
            print(f"job {job.job} ({' '.join(job.overrides)}) {job.status}: {job.message}", file=sys.stderr)
    if waiting := sum(job.exit_code is None for job in jobs):
        print(f"{waiting} of {len(jobs)} jobs were not run.", file=sys.stderr)
    if all(job.status == "done" for job in jobs):
        print(f"run: {folder}", flush=True)
        return DONE
    say_how_to_go_on(folder)
    return CRASHED if stopped is None else stopped


def left_nothing(folder: Path) -> bool:
    """Free the directory of a pipeline of which no stage ever began, so that the corrected command may use it. False when one did."""
    if not {file.name for file in folder.iterdir()} <= {RECORD, LOCK}:
        return False
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return True


def say_how_to_go_on(folder: Path) -> None:
    """After a failure or an interruption."""
    print(f"To go on, type the same command with run_dir={folder}; finished stages are not run again.", file=sys.stderr, flush=True)
    print(f"run: {folder}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
