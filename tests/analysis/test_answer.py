"""Who was which stage of which arm, means over seeds, and the files of an answer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from alignkit.analysis.answer import Answer, markdown, over_seeds, rows_of, spoken, stages, write_answer
from alignkit.analysis.runs import Runs, load_runs
from alignkit.analysis.sweeps import interval
from alignkit.errors import UserError


@pytest.fixture
def runs(write_run: Callable[..., Any], tmp_path: Path) -> Runs:
    """Two jobs that share a stage, one of which has failed in its last one."""
    write_run("0-a/sft", {"seed": 3}, results={"val/loss": 1.0})
    write_run("0-a/dpo", {"seed": 3, "loss": {"beta": 0.1}}, results={"val/objective/kl": 2.0})
    write_run("1-b/ipo", {"seed": 3, "loss": {"beta": 0.5}}, results={"val/loss": 0.5})
    for job, arm, told in (
        ("0-a", "first", [("sft", "sft", "done"), ("dpo", "dpo", "done")]),
        ("1-b", "second", [("sft", "../0-a/sft", "done"), ("ipo", "ipo", "failed")]),
    ):
        records = [{"stage": stage, "directory": directory, "status": status} for stage, directory, status in told]
        (tmp_path / job / "pipeline.json").write_text(json.dumps({"pipeline": arm[0], "overrides": [], "stages": records}))
    jobs = [{"job": 0, "run": "0-a", "arm": "first", "overrides": []}, {"job": 1, "run": "1-b", "arm": "second", "overrides": []}]
    (tmp_path / "sweep.json").write_text(json.dumps(jobs))
    return load_runs(tmp_path)


def test_a_shared_stage_belongs_to_each_of_its_jobs_and_a_failed_one_to_none(runs: Runs) -> None:
    told = stages(runs)[["job", "arm", "pipeline", "stage", "run"]]
    assert [tuple(row) for row in told.itertuples(index=False)] == [
        (0, "first", "f", "sft", "0-a/sft"),
        (0, "first", "f", "dpo", "0-a/dpo"),
        (1, "second", "s", "sft", "0-a/sft"),
    ]


def test_rows_of_a_stage_have_what_was_asked_for(runs: Runs) -> None:
    told = rows_of(runs, "sft", config={"beta": "loss.beta"}, results={"loss": "val/loss", "kl": "val/objective/kl", "x": "no/such"})
    assert told["arm"].tolist() == ["first", "second"]
    assert told["seed"].tolist() == [3, 3]
    assert told["loss"].tolist() == [1.0, 1.0]
    assert told[["beta", "kl", "x"]].isna().to_numpy().all()
    assert rows_of(runs, "dpo", config={"beta": "loss.beta"})["beta"].tolist() == [0.1]


def test_runs_that_are_no_experiment_are_refused(write_run: Callable[..., Any], tmp_path: Path) -> None:
    write_run("one", {"seed": 0}, results={"val/loss": 1.0})
    with pytest.raises(UserError, match="no sweep of pipelines"):
        stages(load_runs(tmp_path))


def test_means_over_seeds_come_with_their_intervals_in_the_order_of_the_rows() -> None:
    rows = pd.DataFrame({"way": ["b", "a", "b", "b"], "x": [1.0, 5.0, 2.0, 3.0], "y": [1.0, math.nan, 1.0, 1.0]})
    told = over_seeds(rows, ["way"], ["x", "y"])
    assert told["way"].tolist() == ["b", "a"]
    assert told["seeds"].tolist() == [3, 1]
    half = 4.302652729 * 1.0 / math.sqrt(3)  # t(0.975, 2) from a table, standard deviation 1
    assert told.loc[0, ["x", "x low", "x high"]].tolist() == pytest.approx([2.0, 2.0 - half, 2.0 + half])
    assert told.loc[1, "x"] == 5.0
    assert math.isnan(told.loc[1, "x low"])
    assert math.isnan(told.loc[1, "y"])


@pytest.mark.parametrize(("values", "words"), [([0.5], "0.50"), ([0.0, 1.0], "0.50 [-5.85, 6.85]")])
def test_spoken_means_have_an_interval_where_there_are_several_seeds(values: list[float], words: str) -> None:
    assert spoken(interval(values)) == words  # t(0.975, 1) = 12.706, standard error 0.5


def test_the_files_of_an_answer(tmp_path: Path) -> None:
    figure = Figure()
    figure.subplots().plot([1, 2], [3, 4])
    table = pd.DataFrame({"method": ["a|b", "c"], "gold": [0.123456, math.nan], "seeds": [3, 1]})
    for _ in range(2):  # the second one is written over the first
        write_answer(Answer(table=table, figure=figure, findings=("It does.", "Or not.")), tmp_path, "Does it?")
    place = tmp_path / "answer"
    assert (place / "findings.md").read_text() == "# Does it?\n\n- It does.\n- Or not.\n"
    assert (place / "table.md").read_text().splitlines() == [
        "| method | gold | seeds |",
        "| --- | ---: | ---: |",
        "| a\\|b | 0.1235 | 3 |",
        "| c |  | 1 |",
    ]
    assert pd.read_csv(place / "table.csv")["gold"].tolist()[0] == 0.123456
    assert (place / "figure.png").read_bytes().startswith(b"\x89PNG")
    first = (place / "figure.svg").read_bytes()
    write_answer(Answer(table=table, figure=figure, findings=()), tmp_path, "Does it?")
    assert (place / "figure.svg").read_bytes() == first


def test_whole_numbers_stay_whole_in_a_page() -> None:
    assert markdown(pd.DataFrame({"n": [120000]})).splitlines()[-1] == "| 120000 |"
