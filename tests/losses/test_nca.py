from __future__ import annotations

import math

import torch

from alignkit.losses.cdpo import CDPO
from alignkit.losses.nca import NCA
from alignkit.losses.outputs import PairLogps


def test_the_chosen_reward_is_pulled_to_ln_2_from_both_sides(close, float64) -> None:
    a = (math.log(2) + float64(-1, 0, 1)).requires_grad_()
    zeros = torch.zeros(3, dtype=torch.float64)
    policy = PairLogps(chosen=a, rejected=zeros, chosen_tokens=zeros, rejected_tokens=zeros)
    reference = PairLogps(chosen=zeros, rejected=zeros, chosen_tokens=zeros, rejected_tokens=zeros)
    losses = NCA(beta=1.0)(policy, reference).losses
    losses.sum().backward()
    assert a.grad is not None
    assert a.grad[0] < -1e-3
    close(a.grad[1:2], 0.0)
    assert a.grad[2] > 1e-3
    close(losses[1], math.log(1.5) + math.log(3) / 2 + math.log(2) / 2)  # sigmoid(ln 2) = 2/3


def test_the_rejected_side_is_pushed_down_everywhere(float64, logps_with_gaps) -> None:
    policy, reference = logps_with_gaps(float64(-100, -1, 0, 1, 100))
    policy.rejected.requires_grad_()
    NCA(beta=0.1)(policy, reference).losses.sum().backward()
    assert (policy.rejected.grad > 0).all()


def test_equals_twice_cdpo_with_a_quarter_of_flips_where_both_sides_moved_alike(logps_with_gaps) -> None:
    # With b = -a = -h / 2: -1.5 log sigmoid(beta h / 2) - 0.5 log sigmoid(-beta h / 2).
    pairs = logps_with_gaps(torch.linspace(-100, 100, 21, dtype=torch.float64))
    torch.testing.assert_close(NCA(beta=0.1)(*pairs).losses, 2 * CDPO(beta=0.05, epsilon=0.25)(*pairs).losses)


def test_far_out_the_loss_is_linear(close, float64, logps_with_gaps) -> None:
    # a = -b = -+5000, beta 0.1: 500 + 500 / 2 when wrong, 500 / 2 when the chosen reward is too high.
    close(NCA(beta=0.1)(*logps_with_gaps(float64(-1e4, 1e4))).losses, (750, 250))
