from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from alignkit.losses.centered_rewards import CenteredRewards
from alignkit.losses.con_dph import ConDPH
from alignkit.losses.l2_rewards import L2Rewards
from alignkit.losses.outputs import PairRewards
from alignkit.losses.sep_dph import SepDPH

LOSS = L2Rewards()


def minimum(objective: Callable[[PairRewards], Tensor]) -> tuple[float, float]:
    """The rewards (chosen, rejected) at which a convex objective of one pair is least, by Newton's method from (0, 0)."""

    def at(rewards: Tensor) -> Tensor:
        return objective(PairRewards(chosen=rewards[:1], rejected=rewards[1:])).sum()

    rewards = torch.zeros(2, dtype=torch.float64)
    for _ in range(30):
        gradient = torch.autograd.functional.jacobian(at, rewards)
        rewards = rewards - torch.linalg.solve(torch.autograd.functional.hessian(at, rewards), gradient)
    return float(rewards[0]), float(rewards[1])


def test_losses_of_the_fact_sheet(close, scores: PairRewards) -> None:
    output = LOSS(scores)
    close(output.losses, (1, 0.5, 5))  # 1 + 0, .25 + .25, 4 + 1
    close(0.1 * output.losses.mean(), 0.2166666667)
    assert output.margins.tolist() == [1.0, -1.0, 3.0]


def test_it_is_not_the_centring_penalty(close, scores: PairRewards) -> None:
    # (a + b)^2 + (a - b)^2 = 2 (a^2 + b^2)
    close(2 * LOSS(scores).losses, CenteredRewards()(scores).losses + (scores.chosen - scores.rejected).square())


@pytest.mark.parametrize(
    ("epsilon", "weight", "margin"),
    [(0.0, 0.1, 1.6335061702), (0.0, 0.05, 2.1280345185), (0.05, 0.1, 1.4303857970), (0.05, 0.05, 1.8108085854)],
)
def test_beside_con_dph_the_best_margin_is_that_of_the_fact_sheet(epsilon: float, weight: float, margin: float) -> None:
    head = ConDPH(epsilon=epsilon)
    chosen, rejected = minimum(lambda scores: head(scores).losses + weight * LOSS(scores).losses)
    assert chosen - rejected == pytest.approx(margin, abs=1e-9)
    assert chosen == pytest.approx(-rejected, abs=1e-9)  # and the shift that con_dph leaves open is gone


@pytest.mark.parametrize(("weight", "chosen"), [(0.1, 0.9223730645), (0.05, 1.2415912576)])
def test_beside_sep_dph_the_best_rewards_are_those_of_the_fact_sheet(weight: float, chosen: float) -> None:
    head = SepDPH(epsilon=0.1)
    found = minimum(lambda scores: head(scores).losses + weight * LOSS(scores).losses)
    assert found == pytest.approx((chosen, -chosen), abs=1e-9)


def test_gradients_pull_each_reward_to_zero(close, scores: PairRewards) -> None:
    scores.chosen.requires_grad_()
    scores.rejected.requires_grad_()
    output = LOSS(scores)
    output.losses.sum().backward()
    close(scores.chosen.grad, (2, -1, 4))
    close(scores.rejected.grad, (0, 1, -2))
    assert not output.chosen_rewards.requires_grad
    assert not output.rejected_rewards.requires_grad
