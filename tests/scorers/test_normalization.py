"""Scores of mean 0 and variance 1, by the population's standard deviation."""

from __future__ import annotations

import pytest
import torch

from alignkit.errors import UserError
from alignkit.scorers.normalization import UNCHANGED, normalization


def test_gain_and_bias_of_four_scores() -> None:
    # mean 2.5, population variance 1.25: gain 1 / sqrt(1.25), bias -2.5 / sqrt(1.25).
    measured = normalization(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert measured.gain == pytest.approx(0.8944271910, abs=1e-9)
    assert measured.bias == pytest.approx(-2.2360679775, abs=1e-9)


def test_normalised_scores_have_mean_zero_and_variance_one() -> None:
    scores = 7 + 3 * torch.randn(256, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    normal = normalization(scores)(scores)
    assert float(normal.mean()) == pytest.approx(0, abs=1e-12)
    assert float(normal.var(correction=0)) == pytest.approx(1, abs=1e-12)


def test_a_shift_and_a_scale_of_all_scores_change_nothing_after_it() -> None:
    scores = torch.randn(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(normalization(5 * scores - 2)(5 * scores - 2), normalization(scores)(scores), rtol=0, atol=1e-12)


def test_nothing_stored_leaves_scores_to_the_bit() -> None:
    scores = torch.randn(5)
    assert UNCHANGED(scores) is scores


@pytest.mark.parametrize("scores", [[], [1.0], [2.0, 2.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_scores_that_have_no_spread_are_refused(scores: list[float]) -> None:
    with pytest.raises(UserError, match="cannot be normalised"):
        normalization(torch.tensor(scores))
