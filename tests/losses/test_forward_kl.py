"""The two divergences over the vocabulary; the reverse one has its own numbers in `test_reverse_kl`.   N tokens   V vocabulary"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.losses.forward_kl import ForwardKL
from alignkit.losses.reverse_kl import ReverseKL

LOSS = ForwardKL()
LOGITS = st.lists(st.floats(-20, 20), min_size=4, max_size=4)


def test_the_loss_of_the_fact_sheet(close, float64) -> None:
    policy, reference = float64(0.6, 0.3, 0.1).log(), float64(0.7, 0.2, 0.1).log()
    close(LOSS(policy[None], reference[None]), (0.0268124543,))


def test_each_token_has_its_own_loss(close, float64) -> None:
    policy = torch.stack((float64(0.6, 0.3, 0.1), float64(0.7, 0.2, 0.1), float64(0.6, 0.3, 0.1))).log()
    reference = torch.stack((float64(0.7, 0.2, 0.1), float64(0.7, 0.2, 0.1), float64(0.6, 0.3, 0.1))).log()
    close(LOSS(policy, reference), (0.0268124543, 0.0, 0.0))


@settings(derandomize=True, deadline=None)
@given(policy=LOGITS, reference=LOGITS)
def test_it_equals_torchs_own_divergence_and_is_never_negative(float64, policy: list[float], reference: list[float]) -> None:
    logps, other = float64(*policy).log_softmax(-1)[None], float64(*reference).log_softmax(-1)[None]
    distribution = torch.distributions.Categorical
    expected = torch.distributions.kl_divergence(distribution(logits=other), distribution(logits=logps))
    torch.testing.assert_close(LOSS(logps, other), expected, rtol=1e-9, atol=1e-12)
    assert LOSS(logps, other).item() > -1e-12
    torch.testing.assert_close(ReverseKL()(other, logps), LOSS(logps, other), rtol=1e-12, atol=1e-15)


def test_the_gradient_in_the_logits_is_policy_minus_reference(close, float64) -> None:
    logits = float64(0.6, 0.3, 0.1).log().requires_grad_()
    LOSS(logits.log_softmax(-1)[None], float64(0.7, 0.2, 0.1).log()[None]).sum().backward()
    close(logits.grad, (-0.1, 0.1, 0.0))


def test_at_the_reference_loss_and_gradient_are_zero(close, float64) -> None:
    logits = float64(1.3, -0.4, 2.0).requires_grad_()
    loss = LOSS(logits.log_softmax(-1)[None], logits.detach().log_softmax(-1)[None])
    loss.sum().backward()
    assert loss.tolist() == [0.0]
    close(logits.grad, 0.0)


def test_a_token_that_the_policy_dropped_costs_what_the_reference_gave_it(close, float64) -> None:
    # Half of the reference at 1e4 nats; ln .5 from its own entropy.
    policy = float64(0.0, -1e4).log_softmax(-1)[None].requires_grad_()
    loss = LOSS(policy, float64(0.5, 0.5).log()[None])
    loss.sum().backward()
    close(loss, 0.5e4 - 0.6931471806)
    assert policy.grad is not None
    assert policy.grad.isfinite().all()


@pytest.mark.parametrize("loss", [ForwardKL(), ReverseKL()])
def test_no_tokens_have_no_losses(loss: ForwardKL | ReverseKL) -> None:
    assert loss(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0,)
