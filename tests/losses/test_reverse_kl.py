from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.losses.reverse_kl import ReverseKL

LOSS = ReverseKL()
LOGITS = st.lists(st.floats(-20, 20), min_size=4, max_size=4)


def test_the_loss_of_the_fact_sheet(close, float64) -> None:
    policy, reference = float64(0.6, 0.3, 0.1).log(), float64(0.7, 0.2, 0.1).log()
    close(LOSS(policy[None], reference[None]), (0.0291491245,))


@settings(derandomize=True, deadline=None)
@given(policy=LOGITS, reference=LOGITS)
def test_it_equals_torchs_own_divergence(float64, policy: list[float], reference: list[float]) -> None:
    logps, other = float64(*policy).log_softmax(-1)[None], float64(*reference).log_softmax(-1)[None]
    distribution = torch.distributions.Categorical
    expected = torch.distributions.kl_divergence(distribution(logits=logps), distribution(logits=other))
    torch.testing.assert_close(LOSS(logps, other), expected, rtol=1e-9, atol=1e-12)


def test_the_gradient_in_the_logits_is_that_of_the_docstring(close, float64) -> None:
    # pi (log pi - log pi_ref - L): .6 (ln(6/7) - L), .3 (ln 1.5 - L), .1 (0 - L) with L = .0291491245
    logits = float64(0.6, 0.3, 0.1).log().requires_grad_()
    LOSS(logits.log_softmax(-1)[None], float64(0.7, 0.2, 0.1).log()[None]).sum().backward()
    loss = 0.6 * math.log(6 / 7) + 0.3 * math.log(1.5)
    close(logits.grad, (0.6 * (math.log(6 / 7) - loss), 0.3 * (math.log(1.5) - loss), -0.1 * loss))


def test_a_token_that_the_policy_dropped_costs_nothing_more(close, float64) -> None:
    # All of the policy on one of two tokens that the reference finds equally likely: ln 2, however far the other has gone.
    policy = float64(0.0, -1e4).log_softmax(-1)[None].requires_grad_()
    loss = LOSS(policy, float64(0.5, 0.5).log()[None])
    loss.sum().backward()
    close(loss, math.log(2))
    assert policy.grad is not None
    assert policy.grad.isfinite().all()


def test_what_the_reference_would_not_say_costs_its_improbability(close, float64) -> None:
    close(LOSS(float64(0.0, -1e4).log_softmax(-1)[None], float64(-1e4, 0.0).log_softmax(-1)[None]), 1e4)


def test_at_the_reference_loss_and_gradient_are_zero(close, float64) -> None:
    logits = float64(1.3, -0.4, 2.0).requires_grad_()
    loss = LOSS(logits.log_softmax(-1)[None], logits.detach().log_softmax(-1)[None])
    loss.sum().backward()
    assert loss.tolist() == [0.0]
    close(logits.grad, torch.zeros(3, dtype=torch.float64))
