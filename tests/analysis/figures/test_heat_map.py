"""The grid of a sweep: every number in its cell, the best framed, holes hatched."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from alignkit.analysis.figures.heat_map import heat_map
from alignkit.errors import UserError

ACCURACY = "val/rewards/accuracies"


def grid(values: list[list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        values,
        index=pd.Index([0.05, 0.5][: len(values)], name="loss.beta"),
        columns=pd.Index([0, 0.1, 0.2][: len(values[0])], name="loss.epsilon"),
    )


def framed(axes: Axes) -> list[tuple[float, float]]:
    """Centres of the frames, as (column, row)."""
    frames = [patch for patch in axes.patches if isinstance(patch, Rectangle) and not patch.get_fill()]
    return [tuple(frame.get_center()) for frame in frames]


def test_each_cell_holds_its_number_and_the_best_is_framed():
    axes, bar = heat_map(grid([[0.5, 0.75, 0.625], [0.5, 0.25, 0.9]]), ACCURACY).axes
    assert [(text.get_position(), text.get_text()) for text in axes.texts] == [
        ((0, 0), "0.500"),
        ((1, 0), "0.750"),
        ((2, 0), "0.625"),
        ((0, 1), "0.500"),
        ((1, 1), "0.250"),
        ((2, 1), "0.900"),
    ]
    assert framed(axes) == [pytest.approx((2, 1))]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.1", "0.2"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.05", "0.5"]
    assert (axes.get_xlabel(), axes.get_ylabel(), bar.get_ylabel()) == ("loss.epsilon", "loss.beta", "fraction")
    assert axes.get_title(loc="left") == "rewards/accuracies, held out"


def test_the_best_loss_is_the_lowest():
    values = grid([[0.5, 0.75], [0.4, 0.6]])
    assert framed(heat_map(values, "val/loss").axes[0]) == [pytest.approx((0, 1))]
    assert framed(heat_map(values, "val/loss", better="higher").axes[0]) == [pytest.approx((1, 0))]


def test_holes_are_hatched_and_said():
    figure = heat_map(grid([[0.5, math.nan], [math.nan, 0.25]]), ACCURACY)
    axes = figure.axes[0]
    assert [patch.get_center() for patch in axes.patches if patch.get_hatch()] == [pytest.approx((1, 0)), pytest.approx((0, 1))]
    assert len(axes.texts) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["best mean", "no result"]


def test_half_widths_stand_below_their_means():
    axes = heat_map(grid([[0.5, 0.75]]), ACCURACY, half_widths=grid([[0.0126, math.nan]])).axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.500\n± 0.013", "0.750"]


def test_words_are_light_on_dark_cells_and_dark_on_light_ones():
    low, high = heat_map(grid([[0.0, 1.0]]), ACCURACY).axes[0].texts
    assert low.get_color() == "white"
    assert high.get_color() != "white"


def test_one_cell_is_a_grid_too():
    axes = heat_map(grid([[0.5]]), ACCURACY).axes[0]
    assert [text.get_text() for text in axes.texts] == ["0.500"]


def test_a_grid_without_numbers_or_direction_is_refused():
    with pytest.raises(UserError, match="val/rewards/accuracies: the table holds no number"):
        heat_map(grid([[math.nan]]), ACCURACY)
    with pytest.raises(UserError, match="neither higher nor lower is better by itself"):
        heat_map(grid([[0.5, 0.6]]), "val/objective/kl")
