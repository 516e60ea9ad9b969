from __future__ import annotations

import pytest
import torch

from alignkit.losses.dpo import DPO
from alignkit.losses.dpo_alpha import DPOAlpha, alpha_scores
from alignkit.losses.dpo_forward_kl import DPOForwardKL
from alignkit.losses.outputs import PairLogps


def test_scores_are_two_times_one_minus_the_root_of_the_inverse_ratio_at_one_half(close, float64) -> None:
    ratios = float64(0.25, 1, 4, 16)
    close(alpha_scores(ratios.log(), 0.5), (-2, 0, 1, 1.5))
    close(alpha_scores(ratios.log(), 1.0), (-3, 0, 0.75, 0.9375))


def test_losses_at_one_half(close, float64) -> None:
    # ratios (4, 1/4) and (1, 4): scores (1, -2) and (0, 1), so at beta 1 -log sigmoid of 3 and of -1.
    zeros, tokens = torch.zeros(2, dtype=torch.float64), torch.ones(2)
    policy = PairLogps(chosen=float64(4, 1).log(), rejected=float64(0.25, 4).log(), chosen_tokens=tokens, rejected_tokens=tokens)
    reference = PairLogps(chosen=zeros, rejected=zeros, chosen_tokens=tokens, rejected_tokens=tokens)
    close(DPOAlpha(beta=1.0, alpha=0.5)(policy, reference).losses, (0.0485873516, 1.3132616875))


def test_tends_to_dpo_and_to_forward_kl_at_its_ends(policy: PairLogps, reference: PairLogps) -> None:
    for alpha, limit in ((1e-9, DPO(beta=0.1)), (1 - 1e-9, DPOForwardKL(beta=0.1))):
        losses = DPOAlpha(beta=0.1, alpha=alpha)(policy, reference).losses
        torch.testing.assert_close(losses, limit(policy, reference).losses, rtol=0, atol=1e-8)


def test_the_derivative_of_a_score_is_the_inverse_ratio_to_the_power_alpha(close, float64) -> None:
    log_ratios = float64(0.25, 1, 4).log().requires_grad_()
    close(torch.autograd.grad(alpha_scores(log_ratios, 0.5).sum(), log_ratios)[0], (2, 1, 0.5))


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.0])
def test_scores_and_their_slopes_go_on_smoothly_where_the_exponential_ends(float64, alpha: float) -> None:
    seam = -30 / alpha
    log_ratios = (seam + float64(-2e-9, 0, 2e-9)).requires_grad_()
    scores = alpha_scores(log_ratios, alpha)
    (slopes,) = torch.autograd.grad(scores.sum(), log_ratios)
    assert slopes.tolist() == pytest.approx([1.0686474581524463e13] * 3, rel=1e-8)  # e^30
    assert scores.tolist() == pytest.approx([-1.0686474581524463e13 / alpha] * 3, rel=1e-8)


@pytest.mark.parametrize("loss", [DPOForwardKL(beta=0.1), DPOAlpha(beta=0.1, alpha=0.5)], ids=lambda loss: type(loss).__name__)
def test_pairs_far_below_the_reference_keep_their_order_and_their_gradient(loss, float64) -> None:
    a, b, tokens = float64(-1e4, -9e3).requires_grad_(), float64(-9e3, -1e4).requires_grad_(), torch.ones(2)
    zeros = torch.zeros(2, dtype=torch.float64)
    policy = PairLogps(chosen=a, rejected=b, chosen_tokens=tokens, rejected_tokens=tokens)
    losses = loss(policy, PairLogps(chosen=zeros, rejected=zeros, chosen_tokens=tokens, rejected_tokens=tokens)).losses
    losses.sum().backward()
    assert losses[0] > 1e9
    assert losses[1] == 0
    assert a.grad is not None
    assert b.grad is not None
    assert a.grad[0] < -1e9
    assert b.grad[0] > 1e9
