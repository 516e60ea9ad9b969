"""Length against reward, against worked numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from alignkit.analysis.figures.length_against_reward import length_against_reward
from alignkit.errors import UserError


def test_the_line_is_least_squares_and_the_correlation_is_pearson_s():
    """Lengths 1..5 against 2, 4, 5, 4, 5: slope 0.6, intercept 2.2, correlation 0.774597 (any textbook)."""
    figure = length_against_reward([1, 2, 3, 4, 5], [2, 4, 5, 4, 5], reward="gold (score)")
    (axes,) = figure.axes
    assert axes.lines[0].get_xydata().tolist() == [pytest.approx([1, 2.8]), pytest.approx([5, 5.2])]
    told = axes.texts[0].get_text()
    # Fisher: tanh(atanh(r) ± 1.96 / sqrt(5 - 3))
    low, high = (math.tanh(math.atanh(0.774597) + sign * 1.959964 / math.sqrt(2)) for sign in (-1, 1))
    assert told == f"correlation 0.775, 95 % [\N{MINUS SIGN}{-low:.3f}, {high:.3f}]\nslope 0.600 a token, 5 completions"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("length of the completion (tokens)", "gold (score)")


def test_kinds_have_their_own_markers():
    figure = length_against_reward([1, 2, 3, 4], [1.0, 2.0, 1.0, 3.0], kinds=["chosen", "rejected"] * 2)
    (axes,) = figure.axes
    assert [points.get_offsets().tolist() for points in axes.collections] == [[[1, 1], [3, 1]], [[2, 2], [4, 3]]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["chosen", "rejected", "least squares"]


@pytest.mark.parametrize(
    ("lengths", "rewards", "which"), [([5] * 4, [1.0, 2.0, 3.0, 4.0], "lengths"), ([1, 2, 3, 4], [0.5] * 4, "rewards")]
)
def test_what_does_not_vary_has_no_correlation(lengths, rewards, which):
    (axes,) = length_against_reward(lengths, rewards).axes
    assert axes.texts[0].get_text() == f"no correlation: all {which} are equal"
    assert not axes.lines


def test_completions_that_are_not_finite_are_left_out_with_their_kind():
    lengths, rewards = np.arange(6.0), np.array([0.0, math.nan, 2.0, 3.0, 5.0, 4.0])
    (axes,) = length_against_reward(lengths, rewards, kinds=["a", "b", "a", "a", "a", "a"]).axes
    assert len(axes.collections) == 1
    assert axes.texts[0].get_text().endswith("5 completions")


def test_too_few_completions_are_refused():
    with pytest.raises(UserError, match="3 completions; at least 4 are needed"):
        length_against_reward([1, 2, 3], [1.0, 2.0, 3.0])
    with pytest.raises(UserError, match=r"lengths 2, rewards 1, kinds 2"):
        length_against_reward([1, 2], [1.0])
