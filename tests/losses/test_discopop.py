from __future__ import annotations

import pytest
import torch

from alignkit.losses.discopop import DiscoPOP
from alignkit.losses.dpo import DPO


def test_is_dpo_on_wrong_pairs_and_exponential_on_right_ones(close, logps_with_gaps) -> None:
    # 40 widths of the passage away, at |z| = 2, the other branch has a weight of e^-40.
    gaps = torch.linspace(20, 200, 10, dtype=torch.float64)
    loss = DiscoPOP(beta=0.1, tau=0.05)
    close(loss(*logps_with_gaps(-gaps)).losses, DPO(beta=0.1)(*logps_with_gaps(-gaps)).losses)
    close(loss(*logps_with_gaps(gaps)).losses, torch.exp(-gaps / 10))


def test_rises_between_its_two_turning_points(float64, logps_with_gaps) -> None:
    # The paper's points, in units of the gap at its beta = tau = 0.05: -2.3714 and 1.44012.
    points = float64(-2.372, -2.370, 0, 1.440, 1.441).requires_grad_()
    losses = DiscoPOP(beta=0.05, tau=0.05)(*logps_with_gaps(points)).losses
    assert torch.autograd.grad(losses.sum(), points)[0].sign().tolist() == [-1, 1, 1, 1, -1]


@pytest.mark.parametrize("side", [-1, 1])
def test_falls_outside_them(logps_with_gaps, side: int) -> None:
    inner, outer = (-2.372, -200.0) if side < 0 else (1.441, 200.0)
    gaps = torch.linspace(inner, outer, 100, dtype=torch.float64)
    losses = DiscoPOP(beta=0.05, tau=0.05)(*logps_with_gaps(gaps)).losses
    assert (side * losses.diff() < 0).all()


@pytest.mark.parametrize("tau", [0.001, 0.05, 1.0])
def test_a_pair_that_is_wrong_by_far_costs_its_margin(close, float64, logps_with_gaps, tau: float) -> None:
    losses = DiscoPOP(beta=0.1, tau=tau)(*logps_with_gaps(float64(-1e4, 1e4))).losses
    close(losses, (1001 if tau == 1 else 1000, 0))  # at tau = 1 the exponential branch is sigmoid(z) e^-z = sigmoid(-z)
