"""The reliability diagram, against torchmetrics and Wilson's interval worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from alignkit.analysis.figures.calibration import calibration
from alignkit.errors import UserError


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_error_is_that_of_torchmetrics(seed):
    rng = np.random.default_rng(seed)
    margins = rng.normal(0.5, 1.5, 300)
    (axes,) = calibration(margins, margins > 0).axes
    theirs = binary_calibration_error(torch.tensor(margins).abs().sigmoid(), torch.tensor(margins > 0).long(), n_bins=15)
    assert axes.texts[0].get_text() == f"calibration error {float(theirs):.3f}\n300 pairs"


def test_points_are_shares_with_wilson_s_intervals():
    """Ten pairs of confidence 0.9 and 8 of them right: Wilson gives (0.8 + z^2/20 ± z sqrt(0.16/10 + z^2/400)) / (1 + z^2/10)."""
    margin = math.log(9)
    figure = calibration([margin, -margin] * 5, [True] * 8 + [False] * 2)
    (axes,) = figure.axes
    container = axes.containers[0]
    assert container.lines[0].get_xydata().tolist() == [pytest.approx([0.9, 0.8])]
    z = 1.959964
    middle, half = 0.8 + z**2 / 20, z * math.sqrt(0.16 / 10 + z**2 / 400)
    (segment,) = container.lines[2][0].get_segments()
    assert segment[:, 1] == pytest.approx([(middle - half) / (1 + z**2 / 10), (middle + half) / (1 + z**2 / 10)], rel=1e-5)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["measured", "perfectly calibrated"]


def test_fuller_bins_have_larger_markers():
    (axes,) = calibration([0.1] * 10 + [3.0] * 90, [True] * 100).axes
    small, large = axes.collections[-1].get_sizes()
    assert small < large


def test_certain_margins_fall_into_the_last_bin():
    (axes,) = calibration([1e4, -1e4], [True, True]).axes
    assert axes.texts[0].get_text().startswith("calibration error 0.000")


def test_margins_that_are_not_finite_are_left_out():
    (axes,) = calibration([math.nan, 1.0], [True, True]).axes
    assert axes.texts[0].get_text().endswith("1 pairs")
    with pytest.raises(UserError, match="no place of 1"):
        calibration([math.nan], [True])
    with pytest.raises(UserError, match=r"margins 1, correct 2"):
        calibration([1.0], [True, False])
