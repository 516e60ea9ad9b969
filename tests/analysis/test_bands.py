"""Lines over seeds: which runs make one, what it is called, and what its interval is."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from alignkit.analysis.bands import Group, bands, groups, seeds_told
from alignkit.analysis.runs import load_runs
from alignkit.errors import UserError


def test_runs_that_differ_in_their_seed_alone_are_one_line(two_losses):
    assert groups(two_losses, None) == [Group(label="cdpo", runs=("cdpo-0", "cdpo-1")), Group(label="dpo", runs=("dpo-0", "dpo-1"))]


def test_a_single_run_is_called_by_its_name_and_seeds_alone_are_a_mean(two_losses):
    one = two_losses.only(two_losses.info.index.to_series() == "dpo-1")
    assert groups(one, None) == [Group(label="dpo-1", runs=("dpo-1",))]
    seeds = two_losses.only(two_losses.config["loss.name"] == "dpo")
    assert [group.label for group in groups(seeds, None)] == ["mean"]


def test_labels_name_what_varies_and_not_what_follows_from_it(write_run, tmp_path):
    for number, (loss, beta, rate) in enumerate([("dpo", 0.1, 1e-3), ("dpo", 0.5, 1e-3), ("simpo", 2.0, 1e-4)]):
        write_run(str(number), {"loss": {"name": loss, "beta": beta}, "optimizer": {"lr": rate}, "seed": 0})
    assert [group.label for group in groups(load_runs(tmp_path), None)] == ["dpo, beta 0.1", "dpo, beta 0.5", "simpo, beta 2"]
    assert [group.label for group in groups(load_runs(tmp_path), ["optimizer.lr", "loss.beta"])] == [
        "lr 0.0001, beta 2",
        "lr 0.001, beta 0.1",
        "lr 0.001, beta 0.5",
    ]


def test_lines_that_would_mix_settings_are_refused(write_run, tmp_path):
    for beta in (0.1, 0.5):
        write_run(str(beta), {"loss": {"name": "dpo", "beta": beta}, "seed": 0})
    with pytest.raises(UserError, match=r"two runs or more, 0.1 and 0.5. They differ in loss.beta"):
        groups(load_runs(tmp_path), ["loss.name"])
    with pytest.raises(UserError, match=r"config key 'loss.bet' is not there"):
        groups(load_runs(tmp_path), ["loss.bet"])


def test_a_band_is_the_mean_and_its_t_interval_step_by_step():
    """At step 0 the values are 1 and 3, so 2 ± t(0.975, 1) = 12.7062 times 1; at step 10 one seed has no row, at step 20 NaN."""
    curve = pd.DataFrame({"run": ["a", "b", "a", "a", "b"], "step": [0, 0, 10, 20, 20], "value": [1.0, 3.0, 5.0, math.nan, 4.0]})
    (band,) = bands(curve, [Group(label="x", runs=("a", "b")), Group(label="without", runs=("c",))])
    assert (band.label, band.seeds, band.steps.tolist(), band.mean.tolist()) == ("x", 2, [0, 10, 20], [2.0, 5.0, 4.0])
    assert band.high[0] - 2 == pytest.approx(12.7062, rel=1e-5)
    assert band.low[0] - 2 == pytest.approx(-12.7062, rel=1e-5)
    assert np.isnan(band.low[1:]).all()


def test_of_a_step_that_was_validated_twice_the_later_one_counts():
    curve = pd.DataFrame({"run": ["a", "a"], "step": [10, 10], "value": [1.0, 2.0]})
    (band,) = bands(curve, [Group(label="x", runs=("a",))])
    assert band.mean.tolist() == [2.0]


def test_a_legend_says_over_how_many_seeds_bands_are():
    def of(*seeds: int) -> str:
        curve = pd.DataFrame([{"run": f"{n}{s}", "step": 0, "value": 1.0} for n in seeds for s in range(n)])
        return seeds_told(bands(curve, [Group(label=str(n), runs=tuple(f"{n}{s}" for s in range(n))) for n in seeds]))

    assert of(3) == "line: mean; band: 95 % t interval over 3 seeds"
    assert of(2, 5) == "line: mean; band: 95 % t interval over 2 to 5 seeds"
    assert of(1) == "one seed each: no interval"
    assert of(1, 3) == "line: mean; band: 95 % t interval over 3 seeds (none with one)"
