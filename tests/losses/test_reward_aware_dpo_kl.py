from __future__ import annotations

from dataclasses import replace
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.losses.dpo import DPO
from alignkit.losses.outputs import PairLogps
from alignkit.losses.reward_aware_dpo_kl import RewardAwareDPOKL


def exact_divergence(target: float, margin: float) -> float:
    """KL(sigmoid(target) || sigmoid(margin)) from probabilities with 400 digits."""
    with localcontext() as context:
        context.prec = 400
        p, q = (1 / (1 + (-Decimal(logit)).exp()) for logit in (target, margin))
        return float(p * (p / q).ln() + (1 - p) * ((1 - p) / (1 - q)).ln())


def test_losses_of_the_fact_sheet(close, float64, policy: PairLogps, reference: PairLogps) -> None:
    output = RewardAwareDPOKL(beta=0.1, eta=1.0)(replace(policy, margins=float64(2, 1, 0.5)), reference)
    close(output.losses, (0.2735036310, 0.1352994090, 0.0514786289))
    close(output.losses.mean(), 0.1534272230)
    close(output.chosen_rewards, (0.1, -0.05, -0.1))
    close(output.rejected_rewards, (-0.05, 0.05, 0.05))


@settings(derandomize=True, deadline=None)
@given(target=st.floats(-300, 300), margin=st.floats(-300, 300))
def test_losses_equal_the_divergence_of_two_preferences_in_400_digits(float64, logps_with_gaps, target: float, margin: float) -> None:
    policy, reference = logps_with_gaps(float64(margin))
    loss = RewardAwareDPOKL(beta=1.0, eta=1.0)(replace(policy, margins=float64(target)), reference).losses.item()
    assert loss == pytest.approx(exact_divergence(target, margin), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("gap", [-1.5, 0.0, 0.25, 2.0])
def test_the_gradient_turns_where_the_margin_is_the_scaled_rating_gap(close, float64, logps_with_gaps, gap: float) -> None:
    beta, eta = 0.1, 1.7
    gaps = (eta * gap / beta + float64(-3, 0, 3)).requires_grad_()
    policy, reference = logps_with_gaps(gaps)
    losses = RewardAwareDPOKL(beta=beta, eta=eta)(replace(policy, margins=torch.full((3,), gap, dtype=torch.float64)), reference).losses
    (gradient,) = torch.autograd.grad(losses.sum(), gaps)
    close(losses[1], 0.0)
    # beta (q - p): the policy's own preference less the one that the ratings ask for
    close(gradient, beta * (torch.sigmoid(beta * gaps.detach()) - torch.sigmoid(float64(eta * gap))))
    assert gradient[0] < -5e-4
    assert gradient[2] > 5e-4


def test_a_pair_that_is_rated_far_apart_costs_its_dpo_loss(close, policy: PairLogps, reference: PairLogps) -> None:
    certain = replace(policy, margins=torch.full((3,), 1e4, dtype=torch.float64))
    close(RewardAwareDPOKL(beta=0.1, eta=1.0)(certain, reference).losses, DPO(beta=0.1)(policy, reference).losses)


def test_swapping_the_pair_and_its_ratings_changes_nothing(close, float64, policy: PairLogps, reference: PairLogps) -> None:
    def swapped(pairs: PairLogps, margins: torch.Tensor | None) -> PairLogps:
        return PairLogps(
            chosen=pairs.rejected,
            rejected=pairs.chosen,
            chosen_tokens=pairs.rejected_tokens,
            rejected_tokens=pairs.chosen_tokens,
            margins=margins,
        )

    loss, gaps = RewardAwareDPOKL(beta=0.4, eta=1.0), float64(2, 1, 0.5)
    close(loss(swapped(policy, -gaps), swapped(reference, None)).losses, loss(replace(policy, margins=gaps), reference).losses)


def test_at_the_reference_it_depends_on_the_rating_gap(close, float64, reference: PairLogps) -> None:
    loss = RewardAwareDPOKL(beta=0.1, eta=1.0)
    assert loss.value_at_reference() is None
    # ln 2 less the entropy of the ratings: none at a gap of 0, ln 2 where they are certain
    close(loss(replace(reference, margins=float64(0, 1e4, -1e4)), reference).losses, (0.0, 0.6931471806, 0.6931471806))


def test_pairs_without_ratings_are_refused(policy: PairLogps, reference: PairLogps) -> None:
    with pytest.raises(ValueError, match=r"loss\.eta .*have none\. Use data with ratings or loss=dpo\."):
        RewardAwareDPOKL(beta=0.1, eta=1.0)(policy, reference)
