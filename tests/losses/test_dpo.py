from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.errors import UserError
from alignkit.losses.dpo import DPO
from alignkit.losses.outputs import PairLogps


def test_losses_and_rewards_of_the_fact_sheet(close, policy: PairLogps, reference: PairLogps) -> None:
    output = DPO(beta=0.1)(policy, reference)
    close(output.losses, (0.6209570478, 0.7443966601, 0.7709570478))
    close(output.losses.mean(), 0.7121035852)
    close(output.chosen_rewards, (0.1, -0.05, -0.1))
    close(output.rejected_rewards, (-0.05, 0.05, 0.05))
    close(output.margins, (0.15, -0.1, -0.15))
    assert output.accuracies.tolist() == [1.0, 0.0, 0.0]


def test_a_reference_that_is_indifferent_leaves_the_policy_alone(close, policy: PairLogps) -> None:
    zeros = torch.zeros_like(policy.chosen)
    indifferent = PairLogps(chosen=zeros, rejected=zeros, chosen_tokens=policy.chosen_tokens, rejected_tokens=policy.rejected_tokens)
    losses = DPO(beta=0.1)(policy, indifferent).losses
    close(losses, (0.5981388694, 0.7709570478, 0.7709570478))


def test_gradients_of_the_fact_sheet(close, float64, policy: PairLogps, reference: PairLogps) -> None:
    policy.chosen.requires_grad_()
    policy.rejected.requires_grad_()
    DPO(beta=0.1)(policy, reference).losses.sum().backward()
    expected = float64(-0.0462570155, -0.0524979187, -0.0537429845)
    close(policy.chosen.grad, expected)
    close(policy.rejected.grad, -expected)


def test_policy_at_reference_costs_ln_2(close, reference: PairLogps) -> None:
    assert DPO(beta=0.3).value_at_reference() == pytest.approx(0.6931471805599453, rel=1e-15)
    close(DPO(beta=0.3)(reference, reference).losses, 0.6931471806)


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0])
def test_losses_fall_as_the_gap_grows(logps_with_gaps, beta: float) -> None:
    losses = DPO(beta=beta)(*logps_with_gaps(torch.linspace(-30, 30, 61, dtype=torch.float64))).losses
    assert (losses.diff() < 0).all()


def test_a_pair_that_is_wrong_by_far_costs_its_margin(close, float64, logps_with_gaps) -> None:
    output = DPO(beta=0.1)(*logps_with_gaps(float64(-1e4, 1e4)))
    close(output.losses, (1000, 0))


@pytest.mark.parametrize(("beta", "gap"), [(0.1, 1.0), (0.5, 1.0), (0.1, 2.0), (5.0, 2.0)])
def test_soft_labels_are_matched_where_beta_h_is_the_true_reward_gap(close, float64, logps_with_gaps, beta: float, gap: float) -> None:
    # Facts 2.1: an annotator with a reward gap g prefers the first with chance sigmoid(g); the expected loss is stationary at g / beta.
    chance = 1 / (1 + math.exp(-gap))
    gaps = float64(gap / beta).requires_grad_()
    loss = DPO(beta=beta)
    expected_loss = chance * loss(*logps_with_gaps(gaps)).losses + (1 - chance) * loss(*logps_with_gaps(-gaps)).losses
    close(torch.autograd.grad(expected_loss.sum(), gaps)[0], 0.0)


@settings(derandomize=True, deadline=None)
@given(gap=st.floats(-1e3, 1e3), beta=st.floats(1e-3, 5))
def test_losses_equal_the_textbook_form_in_60_digits(float64, exact_logistic, logps_with_gaps, gap: float, beta: float) -> None:
    output = DPO(beta=beta)(*logps_with_gaps(float64(gap)))
    # Absolute: the gap itself went through log-probs that were rounded at 1e3.
    assert output.losses.item() == pytest.approx(exact_logistic(beta * gap, 0.0), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("beta", [0, -0.1, math.inf, math.nan, "0.1", None, True])
def test_beta_out_of_range_is_named(beta: object) -> None:
    with pytest.raises(UserError, match=r"loss\.beta = .*\(0, inf\)"):
        DPO(beta=beta)  # type: ignore[arg-type]
