from __future__ import annotations

import pytest
import torch

from alignkit.losses.bradley_terry import BradleyTerry
from alignkit.losses.centered_rewards import CenteredRewards
from alignkit.losses.con_dph import ConDPH
from alignkit.losses.outputs import PairRewards

LOSS = CenteredRewards()


def test_losses_of_the_fact_sheet(close, scores: PairRewards) -> None:
    output = LOSS(scores)
    close(output.losses, (1, 0, 1))  # (1 + 0)^2, (-.5 + .5)^2, (2 - 1)^2
    close(0.1 * output.losses.mean(), 0.0666666667)
    assert output.margins.tolist() == [1.0, -1.0, 3.0]


def test_it_is_the_centring_of_bradley_terry(scores: PairRewards) -> None:
    plain, centred = (BradleyTerry(use_margin=False, centering=weight)(scores).losses for weight in (0.0, 0.25))
    torch.testing.assert_close(0.25 * LOSS(scores).losses, centred - plain)


@pytest.mark.parametrize(("epsilon", "margin"), [(0.05, 2.9444389792), (0.1, 2.1972245773)])
def test_beside_con_dph_the_best_margin_stays_the_log_odds(close, float64, epsilon: float, margin: float) -> None:
    chosen, rejected = float64(margin / 2).requires_grad_(), float64(-margin / 2).requires_grad_()
    scores = PairRewards(chosen=chosen, rejected=rejected)
    (ConDPH(epsilon=epsilon)(scores).losses + 0.1 * LOSS(scores).losses).sum().backward()
    close(chosen.grad, 0.0)
    close(rejected.grad, 0.0)


def test_gradients_pull_both_rewards_the_same_way(close, scores: PairRewards) -> None:
    scores.chosen.requires_grad_()
    scores.rejected.requires_grad_()
    output = LOSS(scores)
    output.losses.sum().backward()
    close(scores.chosen.grad, (2, 0, 2))
    close(scores.rejected.grad, (2, 0, 2))
    assert not output.chosen_rewards.requires_grad
    assert not output.rejected_rewards.requires_grad


def test_only_the_mean_of_the_two_rewards_counts(scores: PairRewards, float64) -> None:
    apart = float64(3, -2, 0.5)
    moved = PairRewards(chosen=scores.chosen + apart, rejected=scores.rejected - apart)
    torch.testing.assert_close(LOSS(moved).losses, LOSS(scores).losses)
