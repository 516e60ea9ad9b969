from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.losses.outputs import PairLogps
from alignkit.losses.ropo import ROPO


@settings(derandomize=True, deadline=None)
@given(gap=st.floats(-1e4, 1e4), beta=st.floats(1e-3, 5))
def test_losses_of_both_orders_sum_to_one(float64, logps_with_gaps, gap: float, beta: float) -> None:
    losses = ROPO(beta=beta, dpo_weight=0.0)(*logps_with_gaps(float64(gap, -gap))).losses
    assert losses.sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("flips", [0.1, 0.3, 0.45])
def test_flipped_labels_scale_the_gradient_and_keep_its_direction(logps_with_gaps, flips: float) -> None:
    gaps = torch.linspace(-30, 30, 13, dtype=torch.float64).requires_grad_()
    loss = ROPO(beta=0.1, dpo_weight=0.0)
    clean = loss(*logps_with_gaps(gaps)).losses
    noisy = (1 - flips) * clean + flips * loss(*logps_with_gaps(-gaps)).losses
    (clean_gradient,) = torch.autograd.grad(clean.sum(), gaps, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(noisy.sum(), gaps)[0], (1 - 2 * flips) * clean_gradient)


def test_the_dpo_term_joins_with_its_weight(close, float64, policy: PairLogps, reference: PairLogps) -> None:
    # Facts 4.7 (d) and 2.6.
    symmetric, dpo = float64(0.4625701547, 0.5249791875, 0.5374298453), float64(0.6209570478, 0.7443966601, 0.7709570478)
    loss = ROPO(beta=0.1, dpo_weight=0.5)
    close(loss(policy, reference).losses, symmetric + 0.5 * dpo)
    assert loss.value_at_reference() == pytest.approx(0.8465735903, abs=1e-10)


def test_a_pair_that_is_wrong_by_far_has_a_gradient_from_the_dpo_term_alone(close, float64, logps_with_gaps) -> None:
    for weight, slope in ((0.0, 0.0), (2.0, -0.2)):
        gaps = float64(-1e4).requires_grad_()
        losses = ROPO(beta=0.1, dpo_weight=weight)(*logps_with_gaps(gaps)).losses
        close(losses, 1 + 1000 * weight)
        close(torch.autograd.grad(losses.sum(), gaps)[0], slope)
