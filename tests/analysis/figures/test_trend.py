"""Trends: means over seeds against a size."""

from __future__ import annotations

import pandas as pd
import pytest

from alignkit.analysis.figures.trend import trend
from alignkit.errors import UserError

ROWS = pd.DataFrame(
    [("all", 1000, 0, 0.8), ("all", 1000, 1, 0.6), ("all", 100, 0, 0.5), ("ends", 250_000, 0, 0.9)],
    columns=["feedback", "prompts", "seed", "accuracy"],
)


def test_means_are_joined_in_order_of_size_and_large_sizes_are_written_short():
    (axes,) = trend(ROWS, "prompts", {"accuracy": "pairs ordered rightly"}, by="feedback", words="prompts").axes
    means = [container.lines[0].get_xydata().tolist() for container in axes.containers]
    assert means == [[[100.0, 0.5], [1000.0, pytest.approx(0.7)]], [[250_000.0, 0.9]]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["100", "1000", "0.25M"]
    assert axes.get_xscale() == "log"


def test_rows_without_a_number_are_refused():
    with pytest.raises(UserError, match="no row has a number for accuracy"):
        trend(ROWS[:0], "prompts", {"accuracy": "a"}, by="feedback", words="prompts")
