from __future__ import annotations

import torch

from alignkit.losses.apo_zero import APOZero
from alignkit.losses.outputs import PairLogps
from alignkit.losses.ropo import ROPO


def test_is_the_sum_of_the_two_sides_of_kto_at_level_0(close, float64, policy: PairLogps, reference: PairLogps) -> None:
    # Facts 4.4: desirable on (pc, rc), undesirable on (pr, rr).
    desirable, undesirable = float64(0.4750208125, 0.5124973965, 0.5249791875), float64(0.4875026035, 0.5124973965, 0.5124973965)
    close(APOZero(beta=0.1)(policy, reference).losses, desirable + undesirable)


def test_each_side_has_its_own_gradient(close, policy: PairLogps, reference: PairLogps) -> None:
    policy.chosen.requires_grad_()
    policy.rejected.requires_grad_()
    APOZero(beta=0.1)(policy, reference).losses.sum().backward()
    # Facts 4.4: -.0249376040 at a = 1; the slope of the sigmoid is even, so the same at a = -1, and the one of .5 is shared by b.
    assert policy.chosen.grad is not None
    assert policy.rejected.grad is not None
    close(policy.chosen.grad[[0, 2]], -0.0249376040)
    close(policy.chosen.grad[1:2], -policy.rejected.grad[1:2])
    close(policy.rejected.grad[:2], policy.rejected.grad[1:])


def test_equals_twice_ropo_at_half_beta_where_both_sides_moved_alike(logps_with_gaps) -> None:
    pairs = logps_with_gaps(torch.linspace(-100, 100, 21, dtype=torch.float64))
    torch.testing.assert_close(APOZero(beta=0.1)(*pairs).losses, 2 * ROPO(beta=0.05, dpo_weight=0.0)(*pairs).losses)
