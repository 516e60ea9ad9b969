"""Histograms of both sides of pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from matplotlib.patches import StepPatch

from alignkit.analysis.figures.reward_histograms import reward_histograms
from alignkit.errors import UserError


def test_both_sides_share_their_bins_and_hold_every_pair():
    rng = np.random.default_rng(0)
    chosen, rejected = rng.normal(1, 1, 400), rng.normal(0, 1, 400)
    figure = reward_histograms(chosen, rejected, reward="head score")
    (axes,) = figure.axes
    steps = [patch.get_data() for patch in axes.patches if isinstance(patch, StepPatch)]
    assert len(steps) == 4  # an area and an outline for each side
    assert all(np.array_equal(step.edges, steps[0].edges) for step in steps)
    assert [step.values.sum() for step in steps] == [400] * 4
    assert steps[0].values.tolist() == np.histogram(chosen, steps[0].edges)[0].tolist()
    assert steps[2].values.tolist() == np.histogram(rejected, steps[0].edges)[0].tolist()
    assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx([chosen.mean(), rejected.mean()])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("head score", "pairs")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["chosen", "rejected"]


def test_a_tie_counts_half():
    (axes,) = reward_histograms([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 4.0, 3.0]).axes
    assert axes.texts[0].get_text() == "62.5% of 4 pairs ordered rightly\nmean margin 0.250"


def test_pairs_with_a_nan_are_left_out_as_pairs():
    (axes,) = reward_histograms([1.0, math.nan, 3.0], [0.0, -5.0, math.inf]).axes
    assert axes.texts[0].get_text().startswith("100.0% of 1 pairs")


def test_equal_rewards_are_drawn():
    (axes,) = reward_histograms([1.0, 1.0], [1.0, 1.0]).axes
    assert axes.texts[0].get_text().startswith("50.0% of 2 pairs")


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"arrays differ in length \(chosen 2, rejected 1\)"):
        reward_histograms([1.0, 2.0], [1.0])
    with pytest.raises(UserError, match="no place of 1 has finite numbers everywhere"):
        reward_histograms([math.nan], [1.0])
