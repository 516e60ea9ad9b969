from __future__ import annotations

import pytest
import torch

from alignkit.losses.ipo import IPO
from alignkit.losses.outputs import PairLogps
from alignkit.losses.sppo import SPPO


def test_each_side_is_pulled_to_its_own_target(close, policy: PairLogps, reference: PairLogps) -> None:
    policy.chosen.requires_grad_()
    policy.rejected.requires_grad_()
    SPPO(beta=0.1)(policy, reference).losses.sum().backward()
    close(policy.chosen.grad, (-8, -11, -12))  # 2 (a - 5), a = (1, -.5, -1)
    close(policy.rejected.grad, (9, 11, 11))  # 2 (b + 5), b = (-.5, .5, .5)


def test_the_gradients_turn_at_the_targets(close, float64, logps_with_gaps) -> None:
    gaps = float64(9, 10, 11).requires_grad_()  # a = -b = 5 in the middle
    losses = SPPO(beta=0.1)(*logps_with_gaps(gaps)).losses
    close(losses, (0.5, 0, 0.5))
    close(torch.autograd.grad(losses.sum(), gaps)[0], (-1, 0, 1))


def test_equals_half_of_ipo_at_half_beta_where_both_sides_moved_alike(logps_with_gaps) -> None:
    # 2 (h / 2 - 1 / (2 beta))^2 = (h - 1 / beta)^2 / 2
    pairs = logps_with_gaps(torch.linspace(-50, 50, 11, dtype=torch.float64))
    torch.testing.assert_close(SPPO(beta=0.2)(*pairs).losses, IPO(beta=0.1)(*pairs).losses / 2)


@pytest.mark.parametrize(("beta", "value"), [(0.001, 500000.0), (0.1, 50.0), (1.0, 0.5)])
def test_policy_at_reference_costs_one_over_two_beta_squared(beta: float, value: float) -> None:
    assert SPPO(beta=beta).value_at_reference() == pytest.approx(value, rel=1e-14)
