"""A sweep's directory: who is who, and how each job ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignkit.run_dir import RunDir
from alignkit.sweeping.sweep import conclude, plan, slug


def test_names_of_jobs_are_names_of_directories() -> None:
    assert slug(["model.path=/data/my model", "seed=1"]) == "-path=_data_my_model,seed=1"
    assert slug(["model.path=../../etc/passwd"]) == "-path=.._.._etc_passwd"
    assert slug([]) == ""
    assert len(slug(["model.path=" + "x" * 300])) == 100
    assert slug(["model.path=" + "x" * 300]) != slug(["model.path=" + "x" * 301])


def test_a_job_that_died_without_a_word_counts_as_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = plan(str(tmp_path / "grid"), [["seed=1"], ["seed=2"]], named=True)
    RunDir.create(folder / "0-seed=1")
    assert conclude(folder) == 1
    first, second = json.loads((folder / "sweep.json").read_text())
    assert (first["status"], second["status"]) == ("failed", "not run")
    assert "was the process killed" in capsys.readouterr().err


def test_two_sweeps_of_one_second_get_two_directories(tmp_path: Path) -> None:
    names = [plan(str(tmp_path / "12-00-00-sweep"), [["seed=1"]], named=False).name for _ in range(2)]
    assert names == ["12-00-00-sweep", "12-00-00-sweep-2"]
