from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.errors import UserError
from alignkit.losses.cdpo import CDPO
from alignkit.losses.dpo import DPO
from alignkit.losses.outputs import PairLogps


@pytest.mark.parametrize(
    ("epsilon", "losses", "mean"),
    [
        (0.1, (0.6359570478, 0.7343966601, 0.7559570478), 0.7087702519),
        (0.2, (0.6509570478, 0.7243966601, 0.7409570478), 0.7054369186),
    ],
)
def test_losses_of_the_fact_sheet(close, policy: PairLogps, reference: PairLogps, epsilon: float, losses: tuple, mean: float) -> None:
    output = CDPO(beta=0.1, epsilon=epsilon)(policy, reference)
    close(output.losses, losses)
    close(output.losses.mean(), mean)
    close(output.chosen_rewards, (0.1, -0.05, -0.1))
    close(output.rejected_rewards, (-0.05, 0.05, 0.05))


def test_gradients_of_the_fact_sheet(close, float64, policy: PairLogps, reference: PairLogps) -> None:
    policy.chosen.requires_grad_()
    policy.rejected.requires_grad_()
    CDPO(beta=0.1, epsilon=0.1)(policy, reference).losses.sum().backward()
    expected = float64(-0.0362570155, -0.0424979187, -0.0437429845)
    close(policy.chosen.grad, expected)
    close(policy.rejected.grad, -expected)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.4])
def test_policy_at_reference_costs_ln_2(close, reference: PairLogps, epsilon: float) -> None:
    loss = CDPO(beta=0.3, epsilon=epsilon)
    assert loss.value_at_reference() == pytest.approx(0.6931471805599453, rel=1e-15)
    close(loss(reference, reference).losses, 0.6931471806)


def test_equals_dpo_without_smoothing(policy: PairLogps, reference: PairLogps) -> None:
    smooth, plain = CDPO(beta=0.1, epsilon=0.0)(policy, reference), DPO(beta=0.1)(policy, reference)
    torch.testing.assert_close(smooth.losses, plain.losses, rtol=0, atol=0)
    torch.testing.assert_close(smooth.margins, plain.margins, rtol=0, atol=0)


def test_smoothing_adds_epsilon_times_the_margin(close, float64, policy: PairLogps, reference: PairLogps) -> None:
    smooth, plain = CDPO(beta=0.1, epsilon=0.3)(policy, reference), DPO(beta=0.1)(policy, reference)
    close(smooth.losses - plain.losses, 0.3 * float64(0.15, -0.1, -0.15))


@pytest.mark.parametrize(("epsilon", "margin", "entropy"), [(0.1, 2.1972245773, 0.3250829734), (0.4, 0.4054651081, 0.6730116670)])
def test_the_gradient_turns_where_the_margin_is_the_log_odds(
    close, float64, logps_with_gaps, epsilon: float, margin: float, entropy: float
) -> None:
    gaps = (float64(margin - 1, margin, margin + 1) / 0.1).requires_grad_()
    losses = CDPO(beta=0.1, epsilon=epsilon)(*logps_with_gaps(gaps)).losses
    (gradient,) = torch.autograd.grad(losses.sum(), gaps)
    assert gradient[0] < -1e-3
    close(gradient[1], 0.0)
    assert gradient[2] > 1e-3
    close(losses[1], entropy)


@pytest.mark.parametrize(("flips", "epsilon", "margin"), [(0.1, 0.1, 1.5163474894), (0.2, 0.2, 0.7537718024), (0.4, 0.1, 0.3227733923)])
def test_flipped_labels_and_smoothing_shrink_the_margin_together(
    close, float64, logps_with_gaps, flips: float, epsilon: float, margin: float
) -> None:
    gaps = float64(margin / 0.1).requires_grad_()
    loss = CDPO(beta=0.1, epsilon=epsilon)
    expected_loss = (1 - flips) * loss(*logps_with_gaps(gaps)).losses + flips * loss(*logps_with_gaps(-gaps)).losses
    close(torch.autograd.grad(expected_loss.sum(), gaps)[0], 0.0)


def test_far_out_the_loss_is_linear_on_both_sides(close, float64, logps_with_gaps) -> None:
    losses = CDPO(beta=0.1, epsilon=0.1)(*logps_with_gaps(float64(-1e4, 1e4))).losses
    close(losses, (900, 100))  # (1 - epsilon) * 1000 when wrong, epsilon * 1000 when too sure


@settings(derandomize=True, deadline=None)
@given(gap=st.floats(-1e3, 1e3), beta=st.floats(1e-3, 5), epsilon=st.floats(0, 0.499))
def test_losses_equal_the_textbook_form_in_60_digits(
    float64, exact_logistic, logps_with_gaps, gap: float, beta: float, epsilon: float
) -> None:
    output = CDPO(beta=beta, epsilon=epsilon)(*logps_with_gaps(float64(gap)))
    assert output.losses.item() == pytest.approx(exact_logistic(beta * gap, epsilon), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("beta", [0, -0.1, math.inf, math.nan, "0.1", None, True])
def test_beta_out_of_range_is_named(beta: object) -> None:
    with pytest.raises(UserError, match=r"loss\.beta = .*\(0, inf\)"):
        CDPO(beta=beta, epsilon=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("epsilon", [-0.01, 0.5, 1, math.nan, "0.1", None, False])
def test_epsilon_out_of_range_is_named(epsilon: object) -> None:
    with pytest.raises(UserError, match=r"loss\.epsilon = .*\[0, 0\.5\).*flipped"):
        CDPO(beta=0.1, epsilon=epsilon)  # type: ignore[arg-type]
