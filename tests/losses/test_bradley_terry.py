from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from alignkit.errors import UserError
from alignkit.losses.bradley_terry import BradleyTerry
from alignkit.losses.con_dph import ConDPH
from alignkit.losses.outputs import PairRewards

PLAIN = BradleyTerry(use_margin=False, centering=0.0)


@pytest.fixture
def rated_scores(float64) -> PairRewards:
    """Facts 3.7, the reward model's line."""
    return PairRewards(chosen=float64(1, 2, 0.5), rejected=float64(0, 2.5, -1), margins=float64(1, 1 / 3, 0))


def test_losses_of_the_fact_sheet(close, rated_scores: PairRewards) -> None:
    output = PLAIN(rated_scores)
    close(output.losses, (0.3132616875, 0.9740769842, 0.2014132780))
    close(output.losses.mean(), 0.4962506499)
    close(output.margins, (1, -0.5, 1.5))
    assert output.accuracies.tolist() == [1.0, 0.0, 1.0]


def test_two_ranked_completions_are_a_pair(close, float64) -> None:
    # Facts 3.7: Plackett-Luce with K = 2 and rewards (1.5, -0.5).
    close(PLAIN(PairRewards(chosen=float64(1.5), rejected=float64(-0.5))).losses, 0.1269280110)


def test_rating_gaps_are_subtracted_inside_the_sigmoid(close, rated_scores: PairRewards) -> None:
    output = BradleyTerry(use_margin=True, centering=0.0)(rated_scores)
    close(output.losses.mean(), 0.6962595359)
    close(output.losses[0], math.log(2))  # r_chosen - r_rejected = 1 = the rating gap
    close(output.margins, (1, -0.5, 1.5))


def test_rating_gaps_are_left_out_unless_asked_for(rated_scores: PairRewards) -> None:
    unrated = PairRewards(chosen=rated_scores.chosen, rejected=rated_scores.rejected)
    torch.testing.assert_close(PLAIN(rated_scores).losses, PLAIN(unrated).losses, rtol=0, atol=0)


def test_a_larger_rating_gap_costs_more(float64, rated_scores: PairRewards) -> None:
    loss = BradleyTerry(use_margin=True, centering=0.0)
    wider = PairRewards(chosen=rated_scores.chosen, rejected=rated_scores.rejected, margins=float64(1.5, 1, 0.5))
    assert (loss(wider).losses > loss(rated_scores).losses).all()


def test_centering_adds_the_squared_sum(close, rated_scores: PairRewards) -> None:
    added = BradleyTerry(use_margin=False, centering=0.01)(rated_scores).losses - PLAIN(rated_scores).losses
    close(added, (0.01, 0.2025, 0.0025))  # .01 * (1^2, 4.5^2, (-.5)^2)
    close(added.mean(), 0.0716666667)


def test_centering_alone_notices_a_shift_of_both_rewards(rated_scores: PairRewards) -> None:
    shifted = PairRewards(chosen=rated_scores.chosen + 3, rejected=rated_scores.rejected + 3)
    torch.testing.assert_close(PLAIN(shifted).losses, PLAIN(rated_scores).losses)
    centred = BradleyTerry(use_margin=False, centering=0.01)
    assert (centred(shifted).losses > centred(rated_scores).losses).all()


def test_gradients_push_the_rewards_apart(close, float64, rated_scores: PairRewards) -> None:
    chosen, rejected = rated_scores.chosen.requires_grad_(), rated_scores.rejected.requires_grad_()
    PLAIN(PairRewards(chosen=chosen, rejected=rejected)).losses.sum().backward()
    expected = float64(*(-1 / (1 + math.exp(margin)) for margin in (1, -0.5, 1.5)))
    close(chosen.grad, expected)
    close(rejected.grad, -expected)


def test_gradients_with_margin_and_centering_are_derivatives(rated_scores: PairRewards) -> None:
    loss = BradleyTerry(use_margin=True, centering=0.3)
    chosen, rejected = rated_scores.chosen.requires_grad_(), rated_scores.rejected.requires_grad_()

    def losses(chosen: Tensor, rejected: Tensor) -> Tensor:
        return loss(PairRewards(chosen=chosen, rejected=rejected, margins=rated_scores.margins)).losses

    assert torch.autograd.gradcheck(losses, (chosen, rejected))


def test_losses_fall_as_the_margin_grows() -> None:
    chosen = torch.linspace(-30, 30, 61, dtype=torch.float64)
    losses = PLAIN(PairRewards(chosen=chosen, rejected=torch.zeros_like(chosen))).losses
    assert (losses.diff() < 0).all()


def test_equals_the_contrastive_head_without_smoothing(rated_scores: PairRewards) -> None:
    torch.testing.assert_close(PLAIN(rated_scores).losses, ConDPH(epsilon=0.0)(rated_scores).losses, rtol=0, atol=0)


def test_use_margin_without_ratings_is_refused(scores: PairRewards) -> None:
    with pytest.raises(ValueError, match=r"loss\.use_margin = True.*no rating gap"):
        BradleyTerry(use_margin=True, centering=0.0)(scores)


@pytest.mark.parametrize("value", [1, 0, "true", None, 0.5])
def test_use_margin_must_be_a_bool(value: object) -> None:
    with pytest.raises(UserError, match=r"loss\.use_margin = .*true or false"):
        BradleyTerry(use_margin=value, centering=0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-0.01, math.inf, math.nan, "0.1", None, True])
def test_centering_out_of_range_is_named(value: object) -> None:
    with pytest.raises(UserError, match=r"loss\.centering = .*\[0, inf\)"):
        BradleyTerry(use_margin=False, centering=value)  # type: ignore[arg-type]
