"""Dots: means where they belong, seeds beside them."""

from __future__ import annotations

import pandas as pd
import pytest

from alignkit.analysis.figures.dots import dots
from alignkit.errors import UserError

ROWS = pd.DataFrame(
    [("dpo", "usual", 0, 1.0), ("dpo", "usual", 1, 3.0), ("dpo", "shifted", 0, 0.0), ("ppo", "usual", 0, 5.0)],
    columns=["method", "prompts", "seed", "gold"],
)


def test_each_setting_and_series_has_its_mean_and_its_interval_over_seeds():
    (axes,) = dots(ROWS, {"gold": "gold (score)"}, by="method", series="prompts").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dpo", "ppo"]
    means = [container.lines[0].get_xydata().tolist() for container in axes.containers]
    assert means == [[[2.0, -0.25], [5.0, 0.75]], [[0.0, 0.25]]]
    (bar, none) = axes.containers[0].lines[2][0].get_segments()
    assert bar[:, 0].tolist() == pytest.approx([2 - 12.7062047, 2 + 12.7062047])  # t(0.975, 1) * sqrt(2) / sqrt(2)
    assert len(none) == 0 or not (none[:, 0] == none[:, 0]).all()  # one seed has none
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["prompts usual", "prompts shifted"]


def test_a_mark_says_what_it_is():
    figure = dots(ROWS, {"gold": "gold (score)"}, by="method", marks={"gold": 0.5}, mark="before training")
    assert any(line.get_xdata()[0] == 0.5 for line in figure.axes[0].lines if len(line.get_xdata()) == 2)
    assert "dotted: before training" in figure.legends[0].get_title().get_text()


def test_rows_without_a_number_are_refused():
    with pytest.raises(UserError, match="no row has a number for gold"):
        dots(ROWS.assign(gold=float("nan")), {"gold": "gold"}, by="method")
