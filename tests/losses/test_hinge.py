from __future__ import annotations

import torch

from alignkit.losses.hinge import Hinge
from alignkit.losses.outputs import PairLogps


def test_losses_of_the_fact_sheet_with_a_narrow_margin(close, policy: PairLogps, reference: PairLogps) -> None:
    losses = Hinge(beta=1.0)(policy, reference).losses
    close(losses, (0, 2, 2.5))
    close(losses.mean(), 1.5)


def test_a_pair_pulls_with_beta_until_its_gap_is_one_over_beta_and_then_not_at_all(close, float64, logps_with_gaps) -> None:
    gaps = float64(-1e4, 0, 9.9, 10.1, 1e4).requires_grad_()
    losses = Hinge(beta=0.1)(*logps_with_gaps(gaps)).losses
    close(losses, (1001, 1, 0.01, 0, 0))
    close(torch.autograd.grad(losses.sum(), gaps)[0], (-0.1, -0.1, -0.1, 0, 0))


def test_losses_of_both_orders_sum_to_two_within_the_margin(close, logps_with_gaps) -> None:
    gaps = torch.linspace(-10, 10, 21, dtype=torch.float64)
    close(Hinge(beta=0.1)(*logps_with_gaps(gaps)).losses + Hinge(beta=0.1)(*logps_with_gaps(-gaps)).losses, 2.0)
