from __future__ import annotations

import math

import pytest
import torch

from alignkit.losses.cdpo import CDPO
from alignkit.losses.exo import EXO
from alignkit.losses.ropo import ROPO


@pytest.mark.parametrize(("epsilon", "margin"), [(0.001, 6.9067547786), (0.1, 2.1972245773)])
def test_the_loss_is_0_where_the_margin_is_the_log_odds(close, float64, logps_with_gaps, epsilon: float, margin: float) -> None:
    gaps = (float64(margin - 1, margin, margin + 1) / 0.1).requires_grad_()
    losses = EXO(beta=0.1, epsilon=epsilon)(*logps_with_gaps(gaps)).losses
    (gradient,) = torch.autograd.grad(losses.sum(), gaps)
    assert gradient[0] < -1e-5
    assert gradient[2] > 1e-5
    close(gradient[1], 0.0)
    close(losses[1], 0.0)
    assert (losses > -1e-12).all()


@pytest.mark.parametrize("epsilon", [1e-12, 0.001, 0.3])
def test_is_the_symmetric_loss_scaled_by_the_log_odds_less_an_entropy(close, logps_with_gaps, epsilon: float) -> None:
    pairs = logps_with_gaps(torch.linspace(-60, 60, 13, dtype=torch.float64))
    wrong = ROPO(beta=0.1, dpo_weight=0.0)(*pairs).losses  # 1 - q
    entropy = torch.special.entr(wrong) + torch.special.entr(1 - wrong)
    expected = wrong * math.log((1 - epsilon) / epsilon) - math.log1p(-epsilon) - entropy
    close(EXO(beta=0.1, epsilon=epsilon)(*pairs).losses, expected)


def test_without_smoothing_it_tends_to_the_symmetric_loss_in_units_of_log_one_over_epsilon(logps_with_gaps) -> None:
    pairs = logps_with_gaps(torch.linspace(-60, 60, 13, dtype=torch.float64))
    scaled = EXO(beta=0.1, epsilon=1e-37)(*pairs).losses / (37 * math.log(10))
    # What is left out is the entropy, at most ln 2, over 85.
    torch.testing.assert_close(scaled, ROPO(beta=0.1, dpo_weight=0.0)(*pairs).losses, rtol=0, atol=8.2e-3)


def test_has_its_minimum_where_cdpo_has_but_not_its_slope_on_wrong_pairs(float64, logps_with_gaps) -> None:
    slopes = []
    for loss in (EXO(beta=0.1, epsilon=0.1), CDPO(beta=0.1, epsilon=0.1)):
        gaps = float64(21.972245773, -1e4).requires_grad_()
        slopes.append(torch.autograd.grad(loss(*logps_with_gaps(gaps)).losses.sum(), gaps)[0].tolist())
    assert slopes[0] == pytest.approx([0, 0], abs=1e-10)
    assert slopes[1] == pytest.approx([0, -0.09], abs=1e-10)


def test_far_out_the_loss_is_what_the_labels_say(close, float64, logps_with_gaps) -> None:
    close(EXO(beta=0.1, epsilon=0.001)(*logps_with_gaps(float64(-1e4, 1e4))).losses, (6.9077552790, 0.0010005003))  # -ln .001, -ln .999


@pytest.mark.parametrize(("epsilon", "value"), [(0.001, 2.7612307091), (0.1, 0.5108256238), (0.25, 0.1438410362)])
def test_policy_at_reference_costs_the_divergence_of_a_fair_coin(epsilon: float, value: float) -> None:
    assert EXO(beta=0.1, epsilon=epsilon).value_at_reference() == pytest.approx(value, abs=1e-9)
