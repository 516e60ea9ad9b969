from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alignkit.losses.outputs import PairLogps
from alignkit.losses.reward_aware_dpo import RewardAwareDPO


def test_losses_of_the_fact_sheet(close, float64, policy: PairLogps, reference: PairLogps) -> None:
    output = RewardAwareDPO(beta=0.1, eta=1.0)(replace(policy, margins=float64(2, 1, 0.5)), reference)
    close(output.losses, (1.71125, 0.605, 0.21125))
    close(output.losses.mean(), 0.8425)
    close(output.chosen_rewards, (0.1, -0.05, -0.1))
    close(output.rejected_rewards, (-0.05, 0.05, 0.05))


def test_at_the_reference_it_is_half_the_squared_target(close, float64, reference: PairLogps) -> None:
    loss = RewardAwareDPO(beta=0.1, eta=3.0)
    assert loss.value_at_reference() is None
    close(loss(replace(reference, margins=float64(2, 0, -1)), reference).losses, (18.0, 0.0, 4.5))


@pytest.mark.parametrize("gap", [-1.5, 0.0, 0.25, 2.0])
def test_the_gradient_turns_where_the_margin_is_the_scaled_rating_gap(close, float64, logps_with_gaps, gap: float) -> None:
    beta, eta = 0.1, 1.7
    gaps = (eta * gap / beta + float64(-3, 0, 3)).requires_grad_()
    policy, reference = logps_with_gaps(gaps)
    losses = RewardAwareDPO(beta=beta, eta=eta)(replace(policy, margins=torch.full((3,), gap, dtype=torch.float64)), reference).losses
    close(losses, (0.045, 0.0, 0.045))  # (beta * 3)^2 / 2 on both sides
    close(torch.autograd.grad(losses.sum(), gaps)[0], (-0.03, 0.0, 0.03))


def test_pairs_without_ratings_are_refused(policy: PairLogps, reference: PairLogps) -> None:
    with pytest.raises(ValueError, match=r"loss\.eta .*have none\. Use data with ratings or loss=dpo\."):
        RewardAwareDPO(beta=0.1, eta=1.0)(policy, reference)
