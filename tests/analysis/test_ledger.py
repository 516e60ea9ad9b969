"""Ledgers as frames, and what they say of labels."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.special import expit

from alignkit.analysis.figures.data_map import data_map
from alignkit.analysis.ledger import ranked, recall, summaries, suspects_of, suspicion, visits_of
from alignkit.analysis.runs import Runs, load_runs
from alignkit.errors import UserError
from alignkit.ledger_file import LedgerFile, record_type


def keep(
    folder: Path, visits: list[tuple[int, int, int, float, float]], *, implicit: bool = False, sources: tuple[str, ...] = ("",)
) -> Path:
    """A run with a ledger of `(key, step, epoch, margin, loss)`; the policy's margin is twice the head's."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"loss": {"name": "dpo"}, "steps": 4, "run_dir": str(folder)}))
    records = np.zeros(len(visits), record_type(implicit=implicit))
    for place, name in enumerate(("key", "step", "epoch", "margin", "loss")):
        records[name] = [visit[place] for visit in visits]
    if implicit:
        records["implicit"] = 2 * records["margin"]
    records["source"] = records["key"] % len(sources)
    ledger = LedgerFile(folder=folder / "ledger")
    ledger.begin(implicit=implicit, sources=sources)
    ledger.append(records)
    return folder


VISITS = [(0, 1, 0, 1.0, 0.3), (1, 1, 0, -1.0, 1.3), (0, 2, 1, 3.0, 0.1), (1, 2, 1, 0.0, 0.7)]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return load_runs(keep(tmp_path / "a", VISITS, sources=("x", "y")))


def test_visits_are_what_was_kept(runs):
    visits = visits_of(runs)
    assert visits[["key", "step", "epoch", "margin"]].to_numpy().tolist() == [list(visit[:4]) for visit in VISITS]
    assert visits["source"].tolist() == ["x", "y", "x", "y"]
    assert visits["implicit"].isna().all()


def test_summaries_are_those_of_the_papers_by_hand(runs):
    told = summaries(visits_of(runs)).set_index("key")
    assert told["area"].tolist() == [2.0, -0.5]
    assert told["confidence"].tolist() == pytest.approx([(expit(1) + expit(3)) / 2, (expit(-1) + 0.5) / 2])
    assert told["variability"].tolist() == pytest.approx([(expit(3) - expit(1)) / 2, (0.5 - expit(-1)) / 2])
    assert told["correctness"].tolist() == [1.0, 0.25]  # a tie counts one half
    assert told["early_loss"].tolist() == pytest.approx([0.3, 1.3])
    assert told[["first_margin", "last_margin"]].to_numpy().tolist() == [[1.0, 3.0], [-1.0, 0.0]]
    scale = math.sqrt((1 + 1 + 9 + 0) / 4)  # all steps are in one window
    assert told["area_scaled"].tolist() == pytest.approx([2 / scale, -0.5 / scale])


def test_a_head_and_its_policy_have_equal_say_whatever_their_scales(tmp_path):
    one, both = (load_runs(keep(tmp_path / str(flag), VISITS, implicit=flag)) for flag in (False, True))
    assert summaries(visits_of(both))["area_scaled"].tolist() == pytest.approx(summaries(visits_of(one))["area_scaled"].tolist())


def test_each_score_holds_the_pair_that_is_never_believed_for_the_most_suspicious(runs):
    told = summaries(visits_of(runs))
    for score in ("area", "area_scaled", "confidence", "early_loss", "first_margin"):
        assert suspicion(told, score).idxmax() == 1, score
    with pytest.raises(UserError, match="score = 'aera'; must be one of area"):
        suspicion(told, "aera")  # type: ignore[arg-type]


def test_runs_vote_by_the_order_that_they_give(tmp_path):
    margins = {"a": [1.0, 2.0, 3.0], "b": [100.0, 300.0, 200.0]}
    for name, values in margins.items():
        keep(tmp_path / "s" / name, [(key, 1, 0, margin, 0.5) for key, margin in enumerate(values)])
    told = ranked(summaries(visits_of(load_runs(tmp_path / "s"))), "area")
    assert told["key"].tolist() == [0, 1, 2]
    assert told["suspicion"].tolist() == pytest.approx([1.0, 1 / 2, 1 / 2])
    assert told["runs"].tolist() == [2, 2, 2]


def test_visits_without_a_margin_are_left_out(tmp_path):
    found = summaries(visits_of(load_runs(keep(tmp_path / "a", [(0, 1, 0, math.nan, 0.5), (1, 1, 0, 1.0, math.nan)]))))
    assert found["key"].tolist() == [1]
    assert suspicion(found, "early_loss").tolist() == [-math.inf]


def test_recall_counts_what_is_in_the_top_share():
    scores = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert recall(scores, [True, False, True, *[False] * 7], share=0.2) == 0.5
    assert math.isnan(recall(scores, [False] * 10))


def test_no_ledger_and_a_damaged_one_say_what_to_do(tmp_path):
    run = keep(tmp_path / "a", VISITS)
    (run / "ledger" / "ledger.json").write_text("{")
    with pytest.raises(UserError, match=r"ledger: cannot be read .*Leave the run out"):
        visits_of(load_runs(run))
    (run / "ledger" / "ledger.json").unlink()
    with pytest.raises(UserError, match=r"no run of 1 has a ledger .* callbacks.ledger=true"):
        visits_of(load_runs(run))
    assert suspects_of(load_runs(run)).empty


def test_a_source_that_the_manifest_lacks_is_no_crash(tmp_path):
    run = keep(tmp_path / "a", VISITS, sources=("x", "y"))
    LedgerFile(folder=run / "ledger").begin(implicit=False, sources=["x"])
    with pytest.raises(UserError, match=r"names parts of a mixture that ledger\.json does not list"):
        visits_of(load_runs(run))


def test_suspects_are_read_and_torn_rows_are_not(tmp_path):
    run = keep(tmp_path / "a", VISITS)
    row = {"key": 1, "rank": 1, "row": "dataset.path = x, line 3", "source": "", "prompt": "p", "chosen": "c", "rejected": "r"}
    numbers = {"visits": 2, "area": -0.5, "area_scaled": -0.3, "confidence": 0.4, "variability": 0.1}
    lines = [json.dumps(row | numbers), json.dumps({**row, "prompt": None}), '{"key": 2']
    LedgerFile(folder=run / "ledger").suspects.write_text("\n".join(lines))
    found = suspects_of(load_runs(run))
    assert found[["key", "row", "area_scaled"]].to_numpy().tolist() == [[1, "dataset.path = x, line 3", -0.3]]


def test_the_map_marks_what_it_is_told_to_and_refuses_arrays_that_differ():
    figure = data_map([0.9, 0.5, 0.1], [0.1, 0.4, 0.1], [False, False, True])
    others, marked = figure.axes[0].collections
    assert marked.get_offsets().tolist() == [[0.1, 0.1]]
    assert len(others.get_offsets()) == 2
    with pytest.raises(UserError, match="arrays differ in length"):
        data_map([0.9], [0.1, 0.2], [True])


def test_a_frame_of_no_visits_has_no_summaries():
    assert summaries(pd.DataFrame({name: [] for name in ("run", "key", "source", "step", "epoch", "margin", "implicit", "loss")})).empty
