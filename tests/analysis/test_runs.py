"""Frames hold what the files say, of runs in whatever state."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pandas as pd
import pytest

from alignkit import job
from alignkit.analysis import run_files
from alignkit.analysis.runs import load_runs
from alignkit.errors import UserError
from alignkit.pipelines import records
from alignkit.run_dir import append_jsonl, read_jsonl
from alignkit.sweeping import sweep

DPO = {"loss": {"name": "dpo", "beta": 0.1, "module": "alignment"}, "model": {"layers": [-1, 2], "path": None}, "seed": 0, "steps": 4}


def test_frames_hold_what_was_written(write_run, tmp_path):
    rows = [
        {"step": 0, "val/loss": 0.6931471805599453, "val/rewards/margins": 0.0},
        {"step": 2, "train/loss": 0.1 + 0.2, "train/steps_as_int": 3},
        {"step": 4, "val/loss": 5e-324, "val/new": -1.5},
    ]
    run = write_run("a/one", DPO, rows=rows, results={"formula": "dpo: L", "val/loss": 0.25, "steps": 4})
    append_jsonl(run.samples, {"step": 4, "prompt": 'Say: \u2028 "hi"', "policy": "yes", "reference": "no"})
    write_run("a/two", DPO | {"seed": 1}, rows=rows[:1], results={"val/loss": 0.5, "steps": 4})
    runs = load_runs(tmp_path)
    assert runs.names == ["one", "two"]
    assert runs.config.loc["one"].to_dict() == {
        "loss.name": "dpo",
        "loss.beta": 0.1,
        "loss.module": "alignment",
        "model.layers": (-1, 2),
        "model.path": None,
        "seed": 0,
        "steps": 4,
        "run_dir": str(run.path),
    }
    assert runs.config["seed"].dtype == "int64"
    assert runs.results.loc["one", "formula"] == "dpo: L"
    assert runs.results["val/loss"].tolist() == [0.25, 0.5]
    assert pd.isna(runs.results.loc["two", "formula"])
    history = runs.history[runs.history["run"] == "one"]
    assert list(runs.history.columns[:4]) == ["run", "step", "epoch", "time"]
    assert (runs.history["step"].dtype, history["epoch"].tolist()) == ("int64", [0.0, 0.2, 0.4])
    assert all(dtype == "float64" for dtype in runs.history.dtypes.iloc[2:])
    for written, (_, read) in zip(read_jsonl(run.metrics), history.iterrows(), strict=True):
        assert {name: value for name, value in read.items() if name != "run" and not pd.isna(value)} == written  # to the bit
    assert runs.samples.to_dict("records") == [{"run": "one", "step": 4, "prompt": 'Say: \u2028 "hi"', "policy": "yes", "reference": "no"}]
    assert runs.info["status"].tolist() == ["done", "done"]
    assert runs.info.loc["one", ["path", "stage", "job", "folder"]].tolist() == [str(run.path), None, None, None]


def test_a_single_run_is_called_as_its_directory_is(write_run):
    run = write_run("deep/inside/mine", DPO, results={"steps": 4})
    assert load_runs(run.path).names == ["mine"]


def test_runs_of_several_places_are_seen_from_the_deepest_folder_that_holds_all(write_run, tmp_path):
    write_run("x/10", DPO)
    write_run("x/9", DPO)
    other = write_run("y/z/one", DPO)
    assert load_runs(tmp_path / "x", other.path).names == ["x/9", "x/10", "y/z/one"]
    assert load_runs(tmp_path / "x", tmp_path).names == ["x/9", "x/10", "y/z/one"]  # each once


def test_curves_leave_out_rows_without_the_metric(write_run, tmp_path):
    write_run("one", DPO, rows=[{"step": 0, "val/loss": 1.0}, {"step": 1, "train/loss": 2.0}, {"step": 2, "val/loss": math.nan}])
    curve = load_runs(tmp_path).curve("val/loss")
    assert curve.to_dict("list") == {"run": ["one"], "step": [0], "value": [1.0]}
    with pytest.raises(UserError, match=r"no run has logged 'val/los'. Did you mean 'val/loss'\? There are: val/loss, train/loss"):
        load_runs(tmp_path).curve("val/los")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_nan(write_run, tmp_path, value):
    write_run("one", DPO, rows=[{"step": 0, "val/loss": value}, {"step": 1, "val/loss": 0.5}], results={"val/loss": value, "steps": 4})
    runs = load_runs(tmp_path)
    assert math.isnan(runs.history["val/loss"].iloc[0])
    assert runs.history["val/loss"].iloc[1] == 0.5
    assert math.isnan(runs.results["val/loss"].iloc[0])


@pytest.mark.parametrize("torn", ['{"step": 9', '{"step": 9, "val/loss": 1e', '{"step": 9, "val', "\x00\x00"])
def test_a_torn_last_line_is_left_out(write_run, tmp_path, torn):
    run = write_run("one", DPO, rows=[{"step": 0, "val/loss": 1.0}, {"step": 1, "val/loss": 2.0}])
    for file in (run.metrics, run.samples):
        with file.open("a") as there:
            there.write(torn)
    runs = load_runs(tmp_path)
    assert runs.history["step"].tolist() == [0, 1]
    assert runs.history["val/loss"].tolist() == [1.0, 2.0]
    assert runs.samples.empty


def test_runs_without_rows_or_results_are_runs(write_run, tmp_path):
    write_run("a", DPO)
    write_run("b", DPO).metrics.write_text("")
    runs = load_runs(tmp_path)
    assert runs.info["status"].tolist() == ["unfinished", "unfinished"]
    assert runs.history.empty
    assert list(runs.history) == ["run", "step", "epoch", "time"]
    assert list(runs.samples) == ["run", "step", "prompt"]
    assert len(runs.results) == 2


def test_a_column_that_is_no_number_is_no_metric(write_run, tmp_path):
    run = write_run("one", DPO, rows=[{"step": 0, "val/loss": 1.0}])
    append_jsonl(run.metrics, {"step": 1, "val/loss": 2, "note": "paused"})
    assert "note" not in load_runs(tmp_path).history
    assert load_runs(tmp_path).history["val/loss"].tolist() == [1.0, 2.0]


def test_how_runs_ended(write_run, tmp_path):
    write_run("0-done", DPO, results={"steps": 4})
    write_run("1-stopped", DPO, results={"steps": 3})
    (write_run("2-failed", DPO).path / "failure.json").write_text('{"exit_code": 3, "message": "diverged"}')
    (write_run("3-killed", DPO).path / "failure.json").write_text('{"exit_code": 143, "message": ""}')
    write_run("4-pruned", DPO, results={"steps": 2}).pruned.write_text("{}")
    write_run("5-running", DPO)
    assert load_runs(tmp_path).info["status"].tolist() == ["done", "interrupted", "failed", "interrupted", "pruned", "unfinished"]


def test_what_analysis_calls_files_is_what_writers_call_them():
    assert (run_files.SWEEP, run_files.FAILURE, run_files.PIPELINE) == (sweep.SWEEP, sweep.FAILURE, records.RECORD)
    assert set(run_files.STOPS) == set(job.STOPPED_BY)


def pipelines(write_run, tmp_path):
    """A sweep of two jobs whose stages read each other; both share the stage `sft`."""
    jobs = []
    for number, pairs in enumerate((100, 1000)):
        folder = tmp_path / f"sweep/{number}"
        sft = tmp_path / "sweep/0/sft"
        if number == 0:
            write_run("sweep/0/sft", DPO, results={"steps": 4})
        write_run(f"sweep/{number}/reward", DPO | {"dataset": {"pairs": pairs}, "model": {"path": str(sft)}}, results={"steps": 4})
        write_run(
            f"sweep/{number}/ppo", DPO | {"scorer": {"path": str(folder / "reward")}, "model": {"path": str(sft)}}, results={"steps": 4}
        )
        stages = [("sft", "sft" if number == 0 else "../0/sft"), ("reward", "reward"), ("ppo", "ppo")]
        told = {
            "pipeline": "rlhf",
            "overrides": [],
            "stages": [{"stage": name, "directory": place, "status": "done"} for name, place in stages],
        }
        (folder / "pipeline.json").write_text(json.dumps(told))
        overrides = ["seed=0", f"stages.reward.dataset.pairs={pairs}", "stages.ppo.loss.beta=0.1"]
        jobs.append({"job": number, "run": str(number), "overrides": overrides})
    (tmp_path / "sweep/sweep.json").write_text(json.dumps(jobs))


def test_stages_know_their_sweep_and_what_it_gave_those_before_them(write_run, tmp_path):
    pipelines(write_run, tmp_path)
    runs = load_runs(tmp_path / "sweep")
    assert runs.info["stage"].to_dict() == {"0/ppo": "ppo", "0/reward": "reward", "0/sft": "sft", "1/ppo": "ppo", "1/reward": "reward"}
    assert runs.info["job"].tolist() == [0, 0, 0, 1, 1]
    assert set(runs.info["folder"]) == {str(tmp_path / "sweep")}
    last = runs.only(runs.info["stage"] == "ppo")
    assert last.config["stages.reward.dataset.pairs"].tolist() == [100, 1000]
    assert last.config["pipeline"].tolist() == ["rlhf", "rlhf"]
    assert "stages.ppo.loss.beta" not in last.config
    # The paths of scorer and model differ because their jobs do, which is no choice that anybody made.
    assert last.varied() == ["stages.reward.dataset.pairs"]
    assert runs.only(runs.info["stage"] == "reward").varied() == ["dataset.pairs"]


def test_what_is_typed_for_all_rounds_of_a_stage_reaches_what_comes_after_the_first(write_run, tmp_path):
    names = ["labels_1", "dpo_1", "labels_2"]
    for name in names:
        write_run(f"rounds/{name}", DPO, results={"steps": 4})
    told = {"pipeline": "p", "overrides": ["stages.labels.count=7", "stages.dpo.loss.beta=0.3", "stages.dpo_1.seed=5"]}
    stages = [{"stage": name, "directory": name, "status": "done"} for name in names]
    (tmp_path / "rounds" / "pipeline.json").write_text(json.dumps({**told, "stages": stages}))
    config = load_runs(tmp_path / "rounds").config
    assert config["stages.labels.count"].fillna(0).to_dict() == {"dpo_1": 7, "labels_1": 0, "labels_2": 7}
    assert config["stages.dpo.loss.beta"].fillna(0).to_dict() == {"dpo_1": 0, "labels_1": 0, "labels_2": 0.3}
    assert config["stages.dpo_1.seed"].fillna(0).to_dict() == {"dpo_1": 0, "labels_1": 0, "labels_2": 5}


def test_a_sweep_that_was_moved_still_knows_its_own_paths(write_run, tmp_path):
    pipelines(write_run, tmp_path)
    (tmp_path / "sweep").rename(tmp_path / "elsewhere")
    runs = load_runs(tmp_path / "elsewhere")
    assert runs.only(runs.info["stage"] == "ppo").varied() == ["stages.reward.dataset.pairs"]


def test_varied_names_what_was_chosen_and_nothing_else(write_run, tmp_path):
    group = {"logger": {"group": "a"}, "cache_dir": "/x"}
    write_run("0", {"loss": {"name": "dpo", "module": "m", "beta": 0.1, "target": None}, "seed": 0, **group})
    write_run("1", {"loss": {"name": "ppo", "module": "n", "clip": 0.2}, "seed": 0, "logger": {"group": "b"}, "cache_dir": "/y"})
    runs = load_runs(tmp_path)
    assert runs.varied() == ["loss.name"]  # a key that only one run has says nothing
    write_run("2", {"loss": {"name": "dpo", "module": "m", "beta": 0.1, "target": 8}, "seed": 0, **group})
    assert load_runs(tmp_path).varied() == ["loss.name", "loss.target"]  # null is a value


def test_models_from_elsewhere_are_a_choice_in_a_sweep_too(write_run, tmp_path):
    for number, path in enumerate(("/models/a", "/models/b")):
        write_run(str(number), {"model": {"path": path}})
    assert load_runs(tmp_path).varied() == ["model.path"]
    (tmp_path / "sweep.json").write_text(json.dumps([{"job": number, "run": str(number), "overrides": []} for number in (0, 1)]))
    assert load_runs(tmp_path).info["folder"].tolist() == [str(tmp_path)] * 2
    assert load_runs(tmp_path).varied() == ["model.path"]


def test_only_keeps_every_frame_in_step(write_run, tmp_path):
    for seed in (0, 1):
        run = write_run(str(seed), DPO | {"seed": seed}, rows=[{"step": 0, "val/loss": float(seed)}], results={"steps": 4})
        append_jsonl(run.samples, {"step": 0, "prompt": "p"})
    runs = load_runs(tmp_path)
    kept = runs.only(runs.config["seed"] == 1)
    assert [list(frame.index) for frame in (kept.config, kept.results, kept.info)] == [["1"]] * 3
    assert (kept.history["run"].tolist(), kept.samples["run"].tolist()) == (["1"], ["1"])
    assert list(kept.history["run"].cat.categories) == ["1"]
    assert len(runs.history) == 2
    with pytest.raises(UserError, match=r"no run is left of 2: the mask is false for all of them. Their status: 2 done"):
        runs.only(runs.config["seed"] == 7)


def test_a_place_without_runs_says_what_is_there(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"holds no run, which is a folder with a config.yaml \(there: notes.txt\)"):
        load_runs(tmp_path / "runs")
    with pytest.raises(UserError, match=r"there is no such place. Did you mean 'runs'\?"):
        load_runs(tmp_path / "run")
    with pytest.raises(UserError, match="no place; give a run directory"):
        load_runs()


def test_folders_of_wandb_are_no_run_directories(write_run, tmp_path):
    write_run("mine", DPO)
    theirs = tmp_path / "wandb/run-20260101_000000-abc"
    (theirs / "files").mkdir(parents=True)
    (theirs / "files/config.yaml").write_text("wandb_version: 1\n")
    (theirs / "run-abc.wandb").write_bytes(b":W&B\0\0\0")
    assert load_runs(tmp_path).names == ["mine"]


def test_a_config_that_is_no_yaml_is_named(write_run, tmp_path):
    write_run("one", DPO).config.write_text("loss: [")
    with pytest.raises(UserError, match=r"one/config.yaml:1: .* Leave the run out, or repair the file"):
        load_runs(tmp_path)


def test_reading_runs_loads_no_torch():
    code = "import sys, alignkit.analysis.sweeps; print(sorted({'torch', 'lightning', 'transformers', 'wandb'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
