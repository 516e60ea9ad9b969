"""A job of a study that does worse than earlier ones is stopped, with everything a run leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from alignkit.command_line import precheck
from alignkit.job import carry_out
from alignkit.run_dir import RunDir, Scalar, read_jsonl

MONITOR = "val/rewards/accuracies"
SHORT = ["loss=dpo", "steps=6", "schedule.warmup_steps=1", "validation.every=2", "validation.samples=0", "logger=jsonl", "logger.every=1"]
SHORT += ["dataset.pairs=40", "dataset.validation_examples=12", "batch.pairs=8", "callbacks.progress_bar=false"]


def train_as_trial(folder: Path, *, before: float) -> tuple[RunDir, dict[str, Scalar], optuna.Study]:
    """Train as the second trial of a study whose first one had the value `before` at every validation."""
    study = optuna.create_study(study_name="alignkit", storage=f"sqlite:///{folder / 'study.db'}", direction="maximize")
    space = {"++loss.beta": FloatDistribution(0.01, 1.0)}
    values = {step: before for step in (2, 4, 6)}
    study.add_trial(optuna.create_trial(params={"++loss.beta": 0.1}, distributions=space, value=before, intermediate_values=values))
    trial = study.ask(space)
    (settings,) = precheck([*SHORT])
    run = RunDir.create(folder / "job")
    own = {"number": 1, "id": trial._trial_id, "study": "alignkit", "storage": "study.db", "metric": MONITOR}
    run.trial.write_text(json.dumps({**own, "pruner": "median", "startup_trials": 1, "warmup_steps": 0}))
    return run, carry_out(settings, run), study


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def test_a_job_that_lost_stops_at_its_validation_and_leaves_a_whole_run(tmp_path: Path) -> None:
    run, results, study = train_as_trial(tmp_path, before=1.5)
    assert results["steps"] == 2
    assert json.loads(run.pruned.read_text()) == {"step": 2}
    assert study.trials[1].intermediate_values == {2: pytest.approx(results[MONITOR])}
    assert [row["step"] for row in read_jsonl(run.metrics) if MONITOR in row] == [0, 2]
    assert run.model.is_dir()
    assert json.loads(run.results.read_text()) == results
    study.tell(1, state=TrialState.PRUNED)


def test_a_job_that_leads_comes_to_its_end(tmp_path: Path) -> None:
    run, results, study = train_as_trial(tmp_path, before=-1.0)
    assert results["steps"] == 6
    assert not run.pruned.exists()
    rows = {int(row["step"] or 0): row[MONITOR] for row in read_jsonl(run.metrics) if MONITOR in row}
    assert study.trials[1].intermediate_values == {step: pytest.approx(value) for step, value in rows.items() if step > 0}
