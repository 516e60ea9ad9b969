"""The files of a run: nothing is written over, and no file is half there."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from alignkit.errors import UserError
from alignkit.run_dir import RunDir, append_jsonl, read_jsonl, start_and_end


@pytest.fixture
def run(tmp_path) -> RunDir:
    return RunDir.create(tmp_path / "runs" / "one")


def strict(text: str) -> object:
    """JSON as the standard has it: Python's own reader also takes NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_metrics_are_appended_and_earlier_rows_never_touched(run):
    run.append_metrics({"train/loss": 0.5}, step=1, epoch=0.25)
    before = run.metrics.read_bytes()
    run.append_metrics({"val/loss": 0.25}, step=2, epoch=0.5)
    assert run.metrics.read_bytes().startswith(before)
    rows = list(read_jsonl(run.metrics))
    assert [{k: v for k, v in row.items() if k != "time"} for row in rows] == [
        {"step": 1, "epoch": 0.25, "train/loss": 0.5},
        {"step": 2, "epoch": 0.5, "val/loss": 0.25},
    ]
    assert 0 < rows[0]["time"] <= rows[1]["time"]


def test_another_writer_of_the_same_directory_appends_too(run):
    run.append_metrics({"train/loss": 0.5}, step=1, epoch=0.25)
    RunDir(run.path).append_metrics({"train/loss": 0.25}, step=2, epoch=0.5)
    assert [row["step"] for row in read_jsonl(run.metrics)] == [1, 2]


def test_a_second_run_in_the_same_directory_is_refused_and_changes_nothing(run):
    run.config.write_text("steps: 3\n")
    with pytest.raises(UserError, match=r"run_dir = .*one: holds a run already. Choose another, e.g. run_dir=.*one-2"):
        RunDir.create(run.path)
    assert run.config.read_text() == "steps: 3\n"
    assert RunDir.create(f"{run.path}-2").path.is_dir()


def test_a_directory_that_holds_other_files_is_fine(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert RunDir.create(tmp_path).config.is_file()
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_place_that_cannot_be_a_directory_is_refused(name, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="run_dir"):
        RunDir.create(tmp_path / name)


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunDir.create("~/runs/x").path == (tmp_path / "runs" / "x").resolve()


def test_what_is_no_number_in_json_becomes_null(run):
    values = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.5, "e": 3, "f": None, "g": "nan", "h": True}
    run.write_results(values)
    run.append_metrics(values, step=0, epoch=0.0)
    expected = {"a": None, "b": None, "c": None, "d": 1.5, "e": 3, "f": None, "g": "nan", "h": True}
    assert strict(run.results.read_text()) == expected
    assert expected.items() <= strict(run.metrics.read_text()).items()


def test_results_are_replaced_whole(run):
    run.write_results({"loss": 1.0, "old": 1})
    run.write_results({"loss": 2.0})
    assert strict(run.results.read_text()) == {"loss": 2.0}
    assert {path.name for path in run.path.iterdir()} == {"config.yaml", "results.json"}


@pytest.mark.parametrize("culprit", ["write", "rename"])
def test_results_are_whole_or_the_old_ones_whatever_fails(culprit, run, monkeypatch):
    run.write_results({"loss": 1.0})
    original = Path.write_text

    def half(self: Path, text: str, *args, **kwargs) -> int:
        original(self, text[: len(text) // 2])
        raise OSError("no space left on device")

    def refuse(self: Path, target: Path) -> Path:
        raise OSError("interrupted")

    if culprit == "write":
        monkeypatch.setattr(Path, "write_text", half)
    else:
        monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match=r"no space|interrupted"):
        run.write_results({"loss": 2.0, "more": 3.0})
    assert strict(run.results.read_text()) == {"loss": 1.0}


def test_texts_of_any_script_survive_on_one_line(run):
    row = {"prompt": 'a "quoted"\nline\u2028', "policy": "größer 日本語 🙂"}
    append_jsonl(run.samples, row)
    append_jsonl(run.samples, row)
    assert list(read_jsonl(run.samples)) == [row, row]
    assert "日本語" in run.samples.read_text(encoding="utf-8")


def test_every_file_has_the_name_that_others_rely_on(tmp_path):
    run = RunDir(tmp_path)
    names = {
        "config": "config.yaml",
        "metrics": "metrics.jsonl",
        "samples": "samples.jsonl",
        "results": "results.json",
        "model": "model",
        "heads": "heads.safetensors",
        "heads_description": "heads.json",
        "checkpoints": "checkpoints",
    }
    assert {attribute: getattr(run, attribute).relative_to(tmp_path).as_posix() for attribute in names} == names


def test_the_first_and_the_newest_validation_are_told_apart():
    rows = [
        {"step": 0, "val/loss": 0.7, "train/loss": 1.0},
        {"step": 0, "val/gold": 0.1},
        {"step": 1, "train/loss": 0.9},
        {"step": 2, "val/loss": 0.6},
        {"step": 3, "train/loss": 0.8},
    ]
    assert start_and_end(rows) == {"start/val/loss": 0.7, "start/val/gold": 0.1, "val/loss": 0.6}
    assert start_and_end(rows[2:3]) == {}
