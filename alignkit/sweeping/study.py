"""`-m hydra/sweeper=optuna_study`: Optuna asks for jobs, Hydra's launcher runs them, their directories say what Optuna is told.

Optuna's own ask-and-tell interface and a SQLite file in the sweep's directory; `sweep.json` stays the record of the jobs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from alignkit.callbacks.pruners import build_pruner
from alignkit.command_line import Command
from alignkit.errors import UserError
from alignkit.run_dir import RunDir
from alignkit.summary import number
from alignkit.sweeping.launch import launching
from alignkit.sweeping.search_space import Choices, Dimension, written
from alignkit.sweeping.study_plan import StudyPlan
from alignkit.sweeping.study_settings import StudySettings
from alignkit.sweeping.sweep import FAILURE, NOT_RUN, JobRecord, ended, read, slug, write

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

STORAGE = "study.db"
STUDY_NAME = "alignkit"
"""Of the one study in a storage file."""
FINISHED = ("done", "pruned", "failed")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class OpenStudy:
    """A study with its place."""

    study: Study
    plan: StudyPlan
    folder: Path

    @property
    def settings(self) -> StudySettings:
        """How it searches."""
        return self.plan.settings


def run_study(command: Command, folder: Path) -> None:
    """Run jobs until there are as many as asked for. What an earlier process left running is settled first.

    Raises:
        UserError: when the study's file cannot be opened, or what is sought is no result of the jobs.
        KeyboardInterrupt, SystemExit: when a job was interrupted.
    """
    assert command.study is not None
    opened = OpenStudy(study=open_study(command.study, folder), plan=command.study, folder=folder)
    settle(opened)
    with launching(command, folder) as launch:
        while left := opened.settings.trials - finished(folder):
            trials = [ask(opened) for _ in range(min(left, opened.settings.parallel))]
            launch([(record, [*opened.plan.fixed, *chosen]) for record, chosen in trials])
            settle(opened)
            check_sought(opened)


def open_study(plan: StudyPlan, folder: Path) -> Study:
    """The study in the sweep's directory, made where there is none."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = plan.settings
    path = folder / STORAGE
    before = len(read(folder))
    # Another seed after a stop: the same one would draw the same values again.
    seed = settings.seed + before
    samplers: dict[str, Any] = {
        "tpe": lambda: optuna.samplers.TPESampler(n_startup_trials=settings.startup_trials, seed=seed),
        "random": lambda: optuna.samplers.RandomSampler(seed=seed),
    }
    return optuna.create_study(
        study_name=STUDY_NAME,
        storage=f"sqlite:///{path}",
        sampler=samplers[settings.sampler](),
        pruner=build_pruner(settings.pruner, startup_trials=settings.startup_trials, warmup_steps=settings.warmup_steps),
        direction="maximize" if plan.higher else "minimize",
        load_if_exists=True,
    )


def distributions(space: Mapping[str, Dimension]) -> dict[str, BaseDistribution]:
    """What Optuna draws from."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    drawn: dict[str, BaseDistribution] = {}
    for key, of_key in space.items():
        if isinstance(of_key, Choices):
            drawn[key] = CategoricalDistribution(of_key.values)
        elif of_key.whole:
            drawn[key] = IntDistribution(int(of_key.low), int(of_key.high), log=of_key.log, step=int(of_key.step or 1))
        else:
            drawn[key] = FloatDistribution(of_key.low, of_key.high, log=of_key.log, step=of_key.step)
    return drawn


def ask(opened: OpenStudy) -> tuple[JobRecord, list[str]]:
    """One more job: its record in `sweep.json`, its `trial.json`. Returns it with the overrides that Optuna chose."""
    trial = opened.study.ask(distributions(opened.plan.space))
    chosen = [f"{key}={value_of(opened.plan.space[key], value)}" for key, value in trial.params.items()]
    changes = [line.lstrip("+") for line in chosen]
    records = read(opened.folder)
    width = len(str(opened.settings.trials - 1))
    record = JobRecord(job=len(records), overrides=changes, run=f"{len(records):0{width}}{slug(changes)}")
    run = RunDir(opened.folder / record.run)
    run.path.mkdir()
    run.trial.write_text(json.dumps(card(trial, opened)) + "\n", encoding="utf-8")
    write(opened.folder, [*records, record])
    return record, chosen


def card(trial: Trial, opened: OpenStudy) -> dict[str, object]:
    """What a job must know to report to its study."""
    # Optuna makes a Trial in another process from its id alone, for which it has no public name.
    own = {"number": trial.number, "id": trial._trial_id, "study": STUDY_NAME, "storage": STORAGE, "metric": opened.plan.metric}
    settings = opened.settings
    return {**own, "pruner": settings.pruner, "startup_trials": settings.startup_trials, "warmup_steps": settings.warmup_steps}


def value_of(of_key: Dimension, value: Any) -> str:
    """As an override holds it."""
    return str(value) if isinstance(of_key, Choices) else written(of_key, value)


def finished(folder: Path) -> int:
    """Jobs that count: whoever was interrupted is run again."""
    return sum(record.status in FINISHED for record in read(folder))


def settle(opened: OpenStudy) -> None:
    """Tell the study how its jobs ended and write it into `sweep.json`. One that was interrupted is asked for once more."""
    from optuna.trial import TrialState

    waiting = {trial.number: trial for trial in opened.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))}
    records = []
    for record in read(opened.folder):
        run = RunDir(opened.folder / record.run)
        trial = waiting.pop(int(json.loads(run.trial.read_text(encoding="utf-8"))["number"]), None)
        if trial is not None:
            record = ended(opened.folder, record)
            if record.status == NOT_RUN or (record.status == "failed" and not (run.path / FAILURE).exists()):
                record = interrupted(record)
            value = record.results.get(opened.plan.metric)
            if record.status == "pruned":
                opened.study.tell(trial.number, state=TrialState.PRUNED)
            elif record.status == "done" and isinstance(value, int | float) and math.isfinite(value):
                opened.study.tell(trial.number, float(value))
            else:
                opened.study.tell(trial.number, state=TrialState.FAIL)
            if record.status == "interrupted":
                opened.study.enqueue_trial(trial.params)
        records.append(record)
    for trial in waiting.values():  # asked for just before this process was killed
        opened.study.tell(trial.number, state=TrialState.FAIL)
    write(opened.folder, records)


def interrupted(record: JobRecord) -> JobRecord:
    """A job that nobody lets come to its end."""
    return replace(record, status="interrupted", message="the sweep was stopped")


def check_sought(opened: OpenStudy) -> None:
    """Refuse to go on with a metric that jobs do not have.

    Raises:
        UserError: naming some that they have.
    """
    done = [record for record in read(opened.folder) if record.status == "done"]
    if done and not any(opened.plan.metric in record.results for record in done):
        some = ", ".join(name for name, value in done[0].results.items() if isinstance(value, float))
        raise UserError(f"hydra.sweeper.metric = {opened.plan.metric!r}; is no number of results.json. There are {some}.")


def best_line(command: Command, records: Sequence[JobRecord]) -> str | None:
    """The job that a study found, in a line."""
    assert command.study is not None
    name, sign = command.study.metric, 1 if command.study.higher else -1
    reached = {
        record.job: float(value)
        for record in records
        if record.status == "done" and isinstance(value := record.results.get(name), int | float) and math.isfinite(value)
    }
    if not reached:
        return None
    best = max(reached, key=lambda job: sign * reached[job])
    return f"best: job {best} ({' '.join(records[best].overrides)}): {name} {number(reached[best])}"
