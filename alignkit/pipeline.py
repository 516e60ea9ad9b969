"""`python -m alignkit.pipeline`: several runs as one command, each of which goes on from the ones before."""

from __future__ import annotations

import functools
import itertools
import sys
import textwrap
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from alignkit.command_line import is_question, read_flags
from alignkit.errors import UserError
from alignkit.foreign_files import check_folder_contained
from alignkit.help_page import head_comment
from alignkit.job import CRASHED, DONE, WRONG_INPUT, ending, show
from alignkit.launching.output import steady_output
from alignkit.launching.placement import check_alone
from alignkit.pipelines.experiment import Experiment, experiment_files, keep, take_workers, unfold
from alignkit.pipelines.files import pipeline_files, read_pipeline
from alignkit.pipelines.progress import StageWatch
from alignkit.pipelines.records import RECORD, SKIPPED, STAGE_DONE, change
from alignkit.pipelines.schedule import Schedule
from alignkit.pipelines.stage_runs import attempt, check_finished, place
from alignkit.pipelines.stages import PipelineCommand, read_command
from alignkit.pipelines.tables import jobs_table, stages_table
from alignkit.pipelines.workers import run_here, run_in_workers
from alignkit.run_dir import RunDir
from alignkit.summary import print_table
from alignkit.sweeping.progress import showing
from alignkit.sweeping.sweep import SWEEP, JobRecord, slug
from alignkit.terminal import harmless

LOCK = "pipeline.lock"
WIDTH = 130
"""Of lines of the help page."""
HELP = """\
alignkit-pipeline runs several stages as one command: each is a run of alignkit.train that goes on from the ones before.

  python -m alignkit.pipeline pipeline=NAME [key=value ...] [stages.STAGE.key=value ...]

Examples
  python -m alignkit.pipeline pipeline=rlhf                                            supervised, reward model, PPO; offline, minutes
  python -m alignkit.pipeline pipeline=dpo model=gpt2 dataset=hh_rlhf                  keys of a run are for all stages
  python -m alignkit.pipeline pipeline=rlhf stages.ppo.loss.kl_coefficient=0.02        after stages.STAGE. they are for one
  python -m alignkit.pipeline experiment=frontier size=small workers=2                 a question, a sweep and its answer; two at a time
  python -m alignkit.pipeline -m pipeline=rlhf,dpo seed=0,1,2 stages.ppo.loss.kl_coefficient=0.01,0.05
                                                          a sweep: every combination; a stage that jobs have in common is run once

A stage's directory in the pipeline's is that of an ordinary run, and pipeline.json says how each stage ended. After an interruption type
the same command with run_dir=DIR: a finished stage is not run again. Jobs of a sweep print into log.txt in their directories; workers=N
runs N stages at a time, each in a process with one thread.

Pipelines: pipeline=NAME
{pipelines}

Experiments: experiment=NAME [size=small|full] [workers=N]. Each leaves answer/ with a table, a figure and what it found, in sentences.
{experiments}

A pipeline is a YAML file; -cd DIR adds those of DIR/pipeline. It lists stages with their `options`, which give way to all that is typed,
and with what ties them to earlier stages, `from`, which gives way to stages.STAGE. alone. {{sft}} is the directory of stage sft:
  python -m alignkit.pipeline pipeline=rlhf 'stages.ppo.model.path={{reward}}/model'
Stages may come in rounds: rounds=N says how many, stages.dpo. means all of a kind, stages.dpo_2. the second, {{previous}} the model of the
round before; rounds end where a stage measures no more than stop=VALUE, or stop=never. What only some commands have, such as judge=, is
for the stages that have it.

All groups and keys of a run: python -m alignkit.train --help
"""


@steady_output()
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
        check_alone(command="python -m alignkit.pipeline", what="pipeline")
        flags, workers = take_workers(flags)
        flags, experiment = unfold(flags)
        command = read_command(flags, experiment)
        if workers > 1 and not command.multirun:
            raise UserError(f"workers={workers}: the stages of one pipeline follow each other. It is for sweeps: add -m.")
        with claimed(command) as folder:
            return sweep(command, folder, workers, experiment) if command.multirun else run_one(command, folder)
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
        lines += entry_of(name, file, width)
        pipeline = read_pipeline(name, flags.config_dir)
        lines.append(f"  {'':{width}}  stages: {pipeline.outline}")
        lines += [f"  {'':{width}}  keys of its own: {' '.join(pipeline.examples)}"] if pipeline.keys else []
    experiments = experiment_files(flags.config_dir)
    wide = max(map(len, experiments), default=0)
    questions = []
    for name, file in sorted(experiments.items()):
        questions += entry_of(name, file, wide)
    print(HELP.format(pipelines="\n".join(lines), experiments="\n".join(questions)), end="")
    return DONE


def entry_of(name: str, file: Path, width: int) -> list[str]:
    """Lines of the help page: a name, and what a file says of itself first."""
    words = textwrap.wrap(head_comment(file.read_text(encoding="utf-8")), WIDTH - width)
    return [f"  {label:{width}}  {line}" for label, line in zip([name, *[""] * len(words)], words, strict=False)]


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
            check_folder_contained(folder, "run_dir")
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
    placed = place(command.pipelines, [folder])
    check_finished(placed)
    schedule = Schedule(placed)
    stages = placed[0].stages
    for number, stage in enumerate(stages):
        announcement = f"stage {number + 1} of {len(stages)}: {stage.stage.name}"
        records = schedule.records[0]
        if records[number].status == SKIPPED:
            print(f"{announcement} is skipped: {records[number].message}", flush=True)
            continue
        if records[number].status == STAGE_DONE:
            print(f"{announcement} is finished, in {stage.run.path}", flush=True)
            continue
        print(announcement, flush=True)
        schedule.begin(stage)
        outcome = attempt(stage, group=folder.name, debug=command.debug)
        schedule.end(stage, outcome)
        if outcome.exit_code != DONE:
            if not (outcome.exit_code == WRONG_INPUT and left_nothing(folder)):
                say_how_to_go_on(folder)
            return outcome.exit_code
        records = schedule.records[0]
        print(f"{stage.stage.name}: {records[number].headline} {change(records[number])}", flush=True)
    print_table(stages_table(schedule.records[0]))
    print(f"run: {folder}", flush=True)
    return DONE


def sweep(command: PipelineCommand, folder: Path, workers: int, experiment: Experiment | None = None) -> int:
    """Run each pipeline of a sweep; one that fails does not keep the others from running, a signal does. An experiment ends with its
    answer, which needs no more than finished runs: typed again, the command answers anew and runs nothing.

    Returns:
        The exit code.
    """
    width = len(str(len(command.pipelines) - 1))
    names = [
        f"{number:0{width}}{f'-{pipeline.arm}' if pipeline.arm else ''}{slug(pipeline.changes)}"
        for number, pipeline in enumerate(command.pipelines)
    ]
    placed = place(command.pipelines, [folder / name for name in names])
    check_finished(placed)
    if experiment is not None:
        many = f"{len(placed)} job{'s' * (len(placed) != 1)}"
        print(f"{experiment.question}\n{experiment.name}, size={experiment.size}: {many}, {workers} at a time", flush=True)
        keep(experiment, folder)
    jobs = [
        JobRecord(job=number, arm=pipeline.arm, overrides=list(pipeline.changes), run=names[number])
        for number, pipeline in enumerate(command.pipelines)
    ]
    schedule = Schedule(placed, jobs, folder)
    with showing(StageWatch(folder), len(jobs)):
        run = run_here if workers == 1 else functools.partial(run_in_workers, workers=workers)
        stopped = run(schedule, group=folder.name, debug=command.debug)
    code = conclude(schedule, stopped=stopped)
    if experiment is not None and stopped is None:
        code = answered(experiment, folder, debug=command.debug) or code
    if code == DONE:
        print(f"run: {folder}", flush=True)
    else:
        say_how_to_go_on(folder)
    return code


def answered(experiment: Experiment, folder: Path, *, debug: bool) -> int:
    """Answer the question by what the jobs left.

    Returns:
        The exit code: that of an answer that could not be given.
    """
    from alignkit.pipelines.answering import give_answer  # pandas and Matplotlib, which a mistake should not wait for

    try:
        give_answer(experiment, folder)
    except Exception as error:
        code, message = ending(error)
        show(error, code, f"no answer: {message}", debug=debug)
        return CRASHED
    return DONE


def conclude(schedule: Schedule, *, stopped: int | None) -> int:
    """Print the table of a sweep and name the jobs that failed.

    Returns:
        The exit code.
    """
    jobs = schedule.jobs
    headlines = [last.kind.headline(last.settings)[0] for last in (pipeline.stages[-1] for pipeline in schedule.pipelines)]
    skipped = [sum(record.status == SKIPPED for record in records) for records in schedule.records]
    print_table(jobs_table(jobs, headlines, skipped))
    for job in jobs:
        if job.exit_code:
            print(f"job {job.job} ({job.words}) {job.status}: {harmless(job.message)}", file=sys.stderr)
    if waiting := sum(job.exit_code is None for job in jobs):
        print(f"{waiting} of {len(jobs)} jobs were not run.", file=sys.stderr)
    return DONE if all(job.status == "done" for job in jobs) else CRASHED if stopped is None else stopped


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
