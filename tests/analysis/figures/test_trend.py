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
    near = 0.04  # of its size a setting stands to the side, so that it does not hide another
    (first, second), (third,) = means
    assert first == [pytest.approx(100, rel=near), 0.5]
    assert second == [pytest.approx(1000, rel=near), pytest.approx(0.7)]
    assert third == [pytest.approx(250_000, rel=near), 0.9]
    assert first[0] < 100
    assert third[0] > 250_000
    assert [label.get_text() for label in axes.get_xticklabels()] == ["100", "1000", "0.25M"]
    assert axes.get_xscale() == "log"


def test_rows_without_a_number_are_refused():
    with pytest.raises(UserError, match="no row has a number for accuracy"):
        trend(ROWS[:0], "prompts", {"accuracy": "a"}, by="feedback", words="prompts")
