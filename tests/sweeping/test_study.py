"""A study from its first job to its last, over a stop. Training itself is a stand-in here."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import yaml

from alignkit import train as shell
from alignkit.composition import composing
from alignkit.configuration import conf_dir
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings
from alignkit.sweeping.study_settings import StudySettings

Command = Callable[..., int]
TARGET = 0.3
"""The beta that the stand-in does best with."""


@pytest.fixture
def betas() -> list[float]:
    """Of every job that was started."""
    return []


@pytest.fixture
def stop_at() -> list[int]:
    """Numbers of starts at which somebody presses Ctrl-C."""
    return []


@pytest.fixture
def command(betas: list[float], stop_at: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Command]:
    """Calls the command in this process and returns its exit code."""

    def train(settings: RunSettings, run: RunDir) -> dict[str, Scalar]:
        beta = float(settings.loss.options["beta"])
        betas.append(beta)
        if len(betas) in stop_at:
            raise KeyboardInterrupt
        if settings.seed == 7:
            raise RuntimeError("a bug")
        results: dict[str, Scalar] = {"val/rewards/accuracies": 1 - abs(beta - TARGET), "seconds": 1.0}
        run.write_results(results)
        return results

    assembly = types.ModuleType("alignkit.training")
    assembly.train = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "alignkit.training", assembly)
    monkeypatch.setattr("alignkit.sweeping.jobs.SHARING", ())  # jobs stay in this process too
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> int:
        monkeypatch.setattr(sys, "argv", ["alignkit-train", *argv])
        return shell.main()

    return run


STUDY = ("-m", "hydra/sweeper=optuna_study", "loss=dpo", "run_dir=study")


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="alignkit", storage=f"sqlite:///{folder / 'study.db'}").trials


def test_a_study_learns_from_what_its_jobs_reached(
    command: Command, betas: list[float], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command(*STUDY, "hydra.sweeper.trials=9", "hydra.sweeper.startup_trials=4", "loss.beta=interval(0.01,1)") == 0
    distances = [abs(beta - TARGET) for beta in betas]
    assert len(betas) == 9
    assert sum(distances[5:]) / 4 < sum(distances[:4]) / 4
    jobs = json.loads((tmp_path / "study" / "sweep.json").read_text())
    assert [job["overrides"] for job in jobs] == [[f"loss.beta={beta!r}"] for beta in betas]
    assert [trial.value for trial in trials(tmp_path / "study")] == [1 - distance for distance in distances]
    best = distances.index(min(distances))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith(f"best: job {best} (loss.beta={betas[best]!r}): val/rewards/accuracies ")
    assert lines[-1] == f"run: {tmp_path / 'study'}"


def test_jobs_that_fail_count_and_teach_nothing(command: Command, tmp_path: Path) -> None:
    assert command(*STUDY, "hydra.sweeper.trials=6", "loss.beta=0.1,0.2", "seed=0,7", "hydra.sweeper.sampler=random") == 1
    jobs = json.loads((tmp_path / "study" / "sweep.json").read_text())
    failed = ["seed=7" in job["overrides"] for job in jobs]
    assert [job["status"] == "failed" for job in jobs] == failed
    assert {True, False} == set(failed)
    assert [trial.state is optuna.trial.TrialState.FAIL for trial in trials(tmp_path / "study")] == failed


def test_a_stopped_study_goes_on_and_runs_the_interrupted_job_again(
    command: Command, betas: list[float], stop_at: list[int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    stop_at.append(3)
    assert command(*STUDY, "hydra.sweeper.trials=4", "loss.beta=tag(log,interval(0.01,1))") == 130
    assert len(betas) == 3
    assert command("resume=study") == 0
    assert betas[3] == betas[2]
    assert len(betas) == 5
    jobs = json.loads((tmp_path / "study" / "sweep.json").read_text())
    assert [job["status"] for job in jobs] == ["done", "done", "interrupted", "done", "done"]
    assert len({job["run"] for job in jobs}) == 5
    capsys.readouterr()
    assert command("resume=study") == 0
    assert len(betas) == 5


def test_several_jobs_at_a_time_get_values_of_their_own(command: Command, betas: list[float], tmp_path: Path) -> None:
    assert command(*STUDY, "hydra.sweeper.trials=5", "hydra.sweeper.parallel=2", "loss.beta=interval(0.01,1)") == 0
    assert len(set(betas)) == 5
    assert [trial.number for trial in trials(tmp_path / "study")] == [0, 1, 2, 3, 4]


def test_a_metric_that_no_job_has_ends_the_study_after_one(
    command: Command, betas: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*STUDY, "loss.beta=interval(0.01,1)", "hydra.sweeper.metric=val/loss") == 2
    assert len(betas) == 1
    assert "There are val/rewards/accuracies, seconds." in capsys.readouterr().err


def test_the_packaged_file_holds_every_setting_of_a_study() -> None:
    values = yaml.safe_load((conf_dir() / "hydra" / "sweeper" / "optuna_study.yaml").read_text())
    assert set(values) == {*StudySettings.__dataclass_fields__, "params"}
    with composing(None) as hydra:
        assert "optuna_study" in hydra.config_loader.get_group_options("hydra/sweeper")
