from __future__ import annotations

import torch

from alignkit.losses.outputs import PairLogps
from alignkit.losses.slic import SLiC


def test_losses_of_the_fact_sheet(close, policy: PairLogps) -> None:
    hinge = SLiC(delta=1.0, nll_weight=0.0)(policy)
    close(hinge.losses, (0.0, 2.5, 2.5))
    close(hinge.losses.mean(), 1.6666666667)
    close(hinge.chosen_rewards, (-10.0, -7.5, -20.0))
    close(hinge.rejected_rewards, (-12.0, -6.0, -18.5))
    tied = SLiC(delta=1.0, nll_weight=0.1)(policy)
    close(tied.losses, (1.0, 3.25, 4.5))
    close(tied.losses.mean(), 2.9166666667)


def test_gradients_of_calibrated_and_of_other_pairs(close, policy: PairLogps) -> None:
    # The first pair has its gap of 1 nat: only the likelihood pulls. The others are pulled apart as well.
    policy.chosen.requires_grad_()
    policy.rejected.requires_grad_()
    SLiC(delta=1.0, nll_weight=0.1)(policy).losses.sum().backward()
    close(policy.chosen.grad, (-0.1, -1.1, -1.1))
    close(policy.rejected.grad, (0.0, 1.0, 1.0))


def test_the_hinge_falls_to_zero_at_the_gap_asked_for(close, float64, logps_with_gaps) -> None:
    policy, _ = logps_with_gaps(float64(-1e4, -1.0, 0.0, 1.9, 2.0, 2.1, 1e4))
    close(SLiC(delta=2.0, nll_weight=0.0)(policy).losses, (10002.0, 3.0, 2.0, 0.1, 0.0, 0.0, 0.0))


def test_likelihoods_of_whole_completions_count_whatever_their_length(close, policy: PairLogps) -> None:
    others = PairLogps(chosen=policy.chosen, rejected=policy.rejected, chosen_tokens=torch.ones(3), rejected_tokens=torch.ones(3))
    loss = SLiC(delta=1.0, nll_weight=0.1)
    close(loss(others).losses, loss(policy).losses)
