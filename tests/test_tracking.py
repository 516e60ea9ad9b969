"""W&B: a run of its own for each job, offline unless the user is logged in, finished whatever happens."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import wandb

from alignkit.command_line import precheck
from alignkit.configuration import config_yaml
from alignkit.errors import UserError
from alignkit.run_dir import RunDir
from alignkit.settings import RunSettings
from alignkit.tracking import mode, run_id, run_name, wandb_logger


def job(folder: Path, *overrides: str) -> tuple[RunSettings, RunDir]:
    (settings,) = precheck([*overrides, f"run_dir={folder}"])
    run = RunDir.create(folder)
    run.config.write_text(config_yaml(settings))
    return settings, run


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user who never logged in."""
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "absent"))
    monkeypatch.setattr("alignkit.tracking_guard.START_PATIENCE", 120.0)  # on a busy machine W&B takes its time


def test_two_jobs_of_one_process_are_two_runs_of_one_group(nobody, tmp_path):
    seen = []
    for number, beta in enumerate(("0.1", "0.5")):
        settings, run = job(tmp_path / str(number), f"loss.beta={beta}", "logger.group=sweep")
        with wandb_logger(settings, run) as logger:
            assert logger is not None
            experiment = logger.experiment
            seen.append((experiment.id, experiment.group, experiment.name, experiment.config["loss"]["beta"], experiment.settings.mode))
            logger.log_metrics({"val/loss": 1.0}, step=0)
        assert wandb.run is None
        assert len(list((run.path / "wandb").glob("offline-run-*/run-*.wandb"))) == 1
    assert seen[0][0] != seen[1][0]
    assert [entry[1:] for entry in seen] == [
        ("sweep", "con_dph-tiny-beta0.1-epsilon0.1-seed0", 0.1, "offline"),
        ("sweep", "con_dph-tiny-beta0.5-epsilon0.1-seed0", 0.5, "offline"),
    ]


def test_a_failing_job_finishes_its_run(nobody, tmp_path):
    settings, run = job(tmp_path / "run")
    with pytest.raises(ZeroDivisionError), wandb_logger(settings, run):
        raise ZeroDivisionError
    assert wandb.run is None


def test_without_wandb_nothing_is_written(tmp_path):
    settings, run = job(tmp_path / "run", "logger=jsonl")
    with wandb_logger(settings, run) as logger:
        assert logger is None
    assert not (run.path / "wandb").exists()


def test_a_key_or_a_netrc_entry_means_online(nobody, monkeypatch, tmp_path):
    assert mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 8)
    assert mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert mode() == "offline"
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.delenv("WANDB_MODE")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert mode() == "online"


def test_an_unknown_mode_is_refused(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(UserError, match="Did you mean 'offline'"):
        mode()


def test_a_name_holds_what_a_sweep_varies(tmp_path):
    settings, _ = job(tmp_path / "run", "loss=dpo", "seed=7")
    assert run_name(settings) == "dpo-tiny-beta0.1-seed7"
    assert run_name(dataclasses.replace(settings, seed=8)) == "dpo-tiny-beta0.1-seed8"


def test_a_resumed_run_goes_on_under_the_same_id(nobody, tmp_path):
    settings, run = job(tmp_path / "run")
    seen = []
    for step in range(3):
        with wandb_logger(settings, run) as logger:
            assert logger is not None
            seen.append(logger.experiment.id)
            logger.log_metrics({"val/loss": 1.0}, step=step)
    assert seen == [seen[0]] * 3


def test_the_newest_run_of_a_directory_is_the_one_that_goes_on(tmp_path):
    run = RunDir.create(tmp_path / "run")
    assert run_id(run) is None
    for name in ("offline-run-20260102_000000-bbbb2222", "run-20260101_000000-aaaa1111", "latest-run"):
        (run.path / "wandb" / name).mkdir(parents=True)
    assert run_id(run) == "bbbb2222"
