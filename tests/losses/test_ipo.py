from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.errors import UserError
from alignkit.losses.dpo import DPO
from alignkit.losses.ipo import IPO
from alignkit.losses.outputs import PairLogps


@pytest.mark.parametrize(("beta", "losses", "mean"), [(0.1, (12.25, 36, 42.25), 30.1666666667), (0.5, (0.25, 4, 6.25), 3.5)])
def test_losses_of_the_fact_sheet(close, policy: PairLogps, reference: PairLogps, beta: float, losses: tuple, mean: float) -> None:
    output = IPO(beta=beta)(policy, reference)
    close(output.losses, losses)
    close(output.losses.mean(), mean)


def test_rewards_are_those_of_dpo(policy: PairLogps, reference: PairLogps) -> None:
    ours, theirs = IPO(beta=0.2)(policy, reference), DPO(beta=0.2)(policy, reference)
    torch.testing.assert_close(ours.chosen_rewards, theirs.chosen_rewards, rtol=0, atol=0)
    torch.testing.assert_close(ours.rejected_rewards, theirs.rejected_rewards, rtol=0, atol=0)


@pytest.mark.parametrize(("beta", "value"), [(0.1, 25.0), (0.5, 1.0), (1.0, 0.25)])
def test_policy_at_reference_costs_one_over_four_beta_squared(close, reference: PairLogps, beta: float, value: float) -> None:
    assert IPO(beta=beta).value_at_reference() == pytest.approx(value, rel=1e-15)
    close(IPO(beta=beta)(reference, reference).losses, value)


def test_gradients_pull_the_gap_to_its_target_from_both_sides(close, float64, logps_with_gaps) -> None:
    gaps = float64(-1, 5, 7).requires_grad_()
    losses = IPO(beta=0.1)(*logps_with_gaps(gaps)).losses
    close(losses, (36, 0, 4))
    close(torch.autograd.grad(losses.sum(), gaps)[0], (-12, 0, 4))  # 2 (h - 5)


def test_gradients_of_the_two_sides_are_opposite(close, policy: PairLogps, reference: PairLogps) -> None:
    policy.chosen.requires_grad_()
    policy.rejected.requires_grad_()
    IPO(beta=0.1)(policy, reference).losses.sum().backward()
    close(policy.chosen.grad, (-7, -12, -13))  # 2 (h - 5), h = (1.5, -1, -1.5)
    close(policy.rejected.grad, (7, 12, 13))


def test_losses_fall_up_to_the_target_and_rise_beyond(logps_with_gaps) -> None:
    losses = IPO(beta=0.1)(*logps_with_gaps(torch.linspace(-20, 30, 51, dtype=torch.float64))).losses  # the target is the 26th
    assert (losses.diff()[:25] < 0).all()
    assert (losses.diff()[25:] > 0).all()


@pytest.mark.parametrize(("flips", "gap"), [(0.0, 5.0), (0.1, 4.0), (0.2, 3.0), (0.4, 1.0)])
def test_flipped_labels_shrink_the_best_gap_linearly(close, float64, logps_with_gaps, flips: float, gap: float) -> None:
    # Facts 4.2: h* = (1 - 2 flips) / (2 beta).
    gaps = float64(gap).requires_grad_()
    loss = IPO(beta=0.1)
    expected_loss = (1 - flips) * loss(*logps_with_gaps(gaps)).losses + flips * loss(*logps_with_gaps(-gaps)).losses
    close(torch.autograd.grad(expected_loss.sum(), gaps)[0], 0.0)


@settings(derandomize=True, deadline=None)
@given(gap=st.floats(-1e3, 1e3), beta=st.floats(1e-2, 5))
def test_losses_are_the_square_of_the_margin_less_one_half_over_beta(float64, logps_with_gaps, gap: float, beta: float) -> None:
    output = IPO(beta=beta)(*logps_with_gaps(float64(gap)))
    assert output.losses.item() == pytest.approx(((output.margins.item() - 0.5) / beta) ** 2, rel=1e-9, abs=1e-9)
    assert output.margins.item() == pytest.approx(beta * gap, rel=1e-9, abs=1e-11)


@pytest.mark.parametrize("beta", [0, -0.1, math.inf, math.nan, "0.1", None, True])
def test_beta_out_of_range_is_named(beta: object) -> None:
    with pytest.raises(UserError, match=r"loss\.beta = .*\(0, inf\)"):
        IPO(beta=beta)  # type: ignore[arg-type]
