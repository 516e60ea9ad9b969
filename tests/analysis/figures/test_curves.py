"""What the curves draw: means and intervals over seeds, with words and units."""

from __future__ import annotations

import numpy as np
import pytest

from alignkit.analysis.figures.curves import curves
from alignkit.analysis.runs import load_runs
from alignkit.errors import UserError


def test_a_panel_a_metric_and_a_line_a_loss(two_losses):
    figure = curves(two_losses)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["rewards/margins, held out", "rewards/accuracies, held out"]
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes] == [
        ("optimiser steps", "reward"),
        ("optimiser steps", "fraction"),
    ]
    margins, accuracies = figure.axes
    assert [line.get_label() for line in margins.lines] == ["cdpo", "dpo"]
    for line in margins.lines:  # seeds 0 and 1 have step / 10 and step / 10 + 1
        assert line.get_xydata().tolist() == [[0, 0.5], [10, 1.5], [20, 2.5]]
    assert accuracies.lines[0].get_ydata().tolist() == pytest.approx([0.5, 0.6, 0.7])
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["cdpo", "dpo"]
    assert legend.get_title().get_text() == "line: mean; band: 95 % t interval over 2 seeds"


def test_bands_reach_as_far_as_the_interval(two_losses):
    margins = curves(two_losses, ["val/rewards/margins"]).axes[0]
    assert len(margins.collections) == 2
    ends = margins.collections[0].get_paths()[0].vertices
    # 0.5 ± t(0.975, 1) * s / sqrt(2) = 12.7062 * 0.5 at step 0, and the same around each later mean
    assert (ends[:, 1].min(), ends[:, 1].max()) == pytest.approx((0.5 - 6.3531, 2.5 + 6.3531), rel=1e-4)


def test_one_seed_has_a_line_and_no_band(two_losses):
    figure = curves(two_losses.only(two_losses.config["seed"] == 0))
    assert [len(axes.collections) for axes in figure.axes] == [0, 0]
    assert figure.legends[0].get_title().get_text() == "one seed each: no interval"


def test_one_point_and_a_gap_are_drawn(write_run, tmp_path):
    write_run("one", {"seed": 0}, rows=[{"step": 0, "val/loss": 1.0}])
    (axes,) = curves(load_runs(tmp_path), ["val/loss"]).axes
    assert axes.lines[0].get_xydata().tolist() == [[0, 1.0]]
    assert axes.lines[0].get_marker() == "o"  # a line of one point would be invisible


def test_lines_differ_in_more_than_colour(two_losses):
    first, second = curves(two_losses).axes[0].lines
    assert first.get_marker() != second.get_marker()
    assert (first.is_dashed(), second.is_dashed()) == (False, True)


def test_a_metric_that_nobody_logged_is_answered_with_those_there_are(two_losses):
    with pytest.raises(
        UserError, match=r"no run has logged 'val/rewards/margin'. Did you mean 'val/rewards/margins'\? There are: .*val/logps/chosen"
    ):
        curves(two_losses, ["val/rewards/margin"])


def test_everything_is_inside_the_figure(two_losses):
    figure = curves(two_losses)
    figure.draw_without_rendering()
    inside = figure.get_tightbbox()
    assert inside.x0 >= 0
    assert inside.y0 >= 0
    assert np.less_equal([inside.x1, inside.y1], figure.get_size_inches()).all()
