from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignkit.losses.dpo import DPO
from alignkit.losses.outputs import PairLogps, PairwiseOutput
from alignkit.losses.re_po import RePO


def level(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def with_margins(margins: Tensor) -> PairwiseOutput:
    return PairwiseOutput(losses=torch.zeros_like(margins), chosen_rewards=margins, rejected_rewards=torch.zeros_like(margins))


def test_losses_and_weights_of_the_fact_sheet(close, policy: PairLogps, reference: PairLogps) -> None:
    loss = RePO(beta=0.1, start=0.9, decay=0.0)
    output = loss(policy, reference, level(0.9))
    close(output.losses, (0.6340500424, 0.7334599730, 0.7538070794))
    close(output.losses.mean(), 0.7071056983)
    close(output.chosen_rewards, (0.1, -0.05, -0.1))
    close(output.rejected_rewards, (-0.05, 0.05, 0.05))
    weights = loss.observe(output, level(0.9))
    close(weights, (0.9127133692, 0.8906331296, 0.8856668772))
    close(weights.mean(), 0.8963377920)
    assert not weights.requires_grad


def test_gradients_are_the_policys_belief_less_the_weight(close, policy: PairLogps, reference: PairLogps) -> None:
    policy.chosen.requires_grad_()
    policy.rejected.requires_grad_()
    RePO(beta=0.1, start=0.9, decay=0.9)(policy, reference, level(0.9)).losses.sum().backward()
    weights = (0.9127133692, 0.8906331296, 0.8856668772)
    expected = [0.1 * (1 / (1 + math.exp(-z)) - w) for z, w in zip((0.15, -0.1, -0.15), weights, strict=True)]
    close(policy.chosen.grad, expected)
    close(policy.rejected.grad, [-slope for slope in expected])


@pytest.mark.parametrize("reliability", [0.5, 0.9, 1.0])
def test_policy_at_reference_costs_ln_2_whatever_the_reliability(close, reference: PairLogps, reliability: float) -> None:
    loss = RePO(beta=0.3, start=0.9, decay=0.9)
    assert loss.value_at_reference() == pytest.approx(0.6931471805599453, rel=1e-15)
    close(loss(reference, reference, level(reliability)).losses, 0.6931471806)


@pytest.mark.parametrize("gap", [-1e4, -3.0, 0.0, 3.0, 1e4])
def test_labels_that_are_certain_make_it_dpo(close, float64, logps_with_gaps, gap: float) -> None:
    gaps = float64(gap).requires_grad_()
    robust, plain = RePO(beta=0.1, start=1.0, decay=0.9)(*logps_with_gaps(gaps), level(1.0)), DPO(beta=0.1)(*logps_with_gaps(gaps))
    close(robust.losses, plain.losses)
    close(torch.autograd.grad(robust.losses.sum(), gaps)[0], torch.autograd.grad(plain.losses.sum(), gaps)[0])


def test_labels_that_say_nothing_teach_nothing(close, logps_with_gaps) -> None:
    gaps = torch.linspace(-30, 30, 13, dtype=torch.float64).requires_grad_()
    losses = RePO(beta=0.1, start=0.9, decay=0.9)(*logps_with_gaps(gaps), level(0.5)).losses
    close(torch.autograd.grad(losses.sum(), gaps)[0], 0.0)


def test_pairs_that_are_wrong_by_far_are_taken_for_flipped(logps_with_gaps) -> None:
    gaps = torch.linspace(-200, 200, 401, dtype=torch.float64).requires_grad_()
    losses = RePO(beta=0.1, start=0.9, decay=0.9)(*logps_with_gaps(gaps), level(0.9)).losses
    (slopes,) = torch.autograd.grad(losses.sum(), gaps)
    assert (slopes < 0).all()  # never pushed to the wrong side
    assert slopes.abs()[0] < 1e-6
    assert gaps[slopes.argmin()].item() == -11  # strongest where w is as far from 1 as sigmoid(z) is from 0: beta h = -log(9) / 2


@settings(derandomize=True, deadline=None)
@given(margin=st.floats(-30, 30), reliability=st.floats(0.01, 0.99))
def test_weights_are_the_posterior_chance_that_the_label_is_right(float64, margin: float, reliability: float) -> None:
    right, wrong = reliability / (1 + math.exp(-margin)), (1 - reliability) / (1 + math.exp(margin))
    weight = RePO(beta=0.1, start=0.9, decay=0.9).observe(with_margins(float64(margin)), level(reliability))
    assert weight.item() == pytest.approx(right / (right + wrong), rel=1e-10)


def test_reliability_stays_where_the_policy_is_indifferent_and_where_labels_are_certain(close, float64) -> None:
    loss = RePO(beta=0.1, start=0.9, decay=0.0)
    close(loss.observe(with_margins(float64(0, 0)), level(0.8)), 0.8)
    close(loss.observe(with_margins(float64(-1e4, -3, 0, 1e4)), level(1.0)), 1.0)


def test_steps_find_the_share_of_labels_that_a_sure_policy_explains(close) -> None:
    # A policy that gives 74 of 100 labels the chance s = .9 and 26 the chance .1: the likelihood of the labels is largest where
    # eta s + (1 - eta) (1 - s) = .74, so at eta = (.74 + .9 - 1) / (2 * .9 - 1) = .8.
    margins = math.log(9) * (1 - 2 * (torch.arange(100, dtype=torch.float64) >= 74).double())
    loss = RePO(beta=0.1, start=0.9, decay=0.5)
    close(loss.observe(with_margins(margins), level(0.8)).mean(), 0.8)
    reliability = level(loss.start)
    for _ in range(200):
        reliability = loss.decay * reliability + (1 - loss.decay) * loss.observe(with_margins(margins), reliability).mean()
    close(reliability, 0.8)
