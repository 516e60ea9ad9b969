"""First readings of runs whose rows are known."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from alignkit.analysis.readings import as_text, last_samples, logged, start_and_end
from alignkit.analysis.runs import load_runs
from alignkit.errors import UserError


def test_only_what_was_logged_is_named_in_the_order_asked_for(two_losses):
    asked = ["val/objective/kl", "val/rewards/margins", "val/logps/chosen"]
    assert logged(two_losses, asked) == asked[1:]
    with pytest.raises(UserError, match="no run has logged any of val/objective/kl"):
        logged(two_losses, asked[:1])


def test_start_and_end_stand_beside_what_they_mean(write_run, tmp_path):
    for seed, end in ((0, 0.75), (1, 0.85)):
        results = {"start/val/rewards/accuracies": 0.5, "val/rewards/accuracies": end, "val/logps/chosen_change": -2.0, "seconds": 1.0}
        write_run(str(seed), {"seed": seed}, results=results)
    told = start_and_end(load_runs(tmp_path))
    assert list(told.index) == ["val/rewards/accuracies", "val/logps/chosen_change"]
    assert told.loc["val/rewards/accuracies", "start"] == 0.5
    assert told.loc["val/rewards/accuracies", "end"] == pytest.approx(0.8)
    assert tuple(told.loc["val/rewards/accuracies", ["unit", "better"]]) == ("fraction", "higher")
    assert math.isnan(told.loc["val/logps/chosen_change", "start"])


def test_samples_are_the_last_ones_of_each_run(write_run, tmp_path):
    for name, last in (("a", 20), ("b", 10)):
        run = write_run(name, {"seed": 0})
        rows = [
            {"step": step, "prompt": prompt, "policy": f"{name}{step}{prompt}", "reference": "r"}
            for step in (0, last)
            for prompt in ("z", "y", "x")
        ]
        run.samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = last_samples(load_runs(tmp_path), prompts=2)
    assert list(told.index) == [("z", "a"), ("z", "b"), ("y", "a"), ("y", "b")]
    assert list(told["policy"]) == ["a20z", "b10z", "a20y", "b10y"]
    assert list(told.columns) == ["reference", "policy"]


def test_runs_without_samples_have_an_empty_frame(two_losses):
    assert last_samples(two_losses, prompts=2).empty


def test_text_is_escaped_and_the_same_each_time():
    frame = pd.DataFrame({"policy": ["<b>bold</b> & so on"], "reward": [0.123456], "none": [math.nan]}, index=["<i>prompt</i>"])
    told = as_text(frame).to_html()
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; so on" in told
    assert "&lt;i&gt;prompt&lt;/i&gt;" in told
    assert "<b>" not in told
    assert ">0.123<" in told
    assert "nan" not in told
    assert told == as_text(frame).to_html()
