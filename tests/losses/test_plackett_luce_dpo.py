from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from alignkit.errors import UserError
from alignkit.losses.dpo import DPO
from alignkit.losses.outputs import CompletionLogps, PairLogps, PairRewards, Ranking
from alignkit.losses.plackett_luce import PlackettLuce
from alignkit.losses.plackett_luce_dpo import PlackettLuceDPO

PAIRS = Ranking(example_index=torch.tensor([0, 0, 1, 1, 2, 2]), ranks=torch.tensor([0, 1] * 3), examples=3)
TRIPLE = Ranking(example_index=torch.zeros(3, dtype=torch.int64), ranks=torch.arange(3), examples=1)


def completions(logps: Tensor) -> CompletionLogps:
    return CompletionLogps(logps=logps, tokens=torch.full(logps.shape, 3))


def interleaved(pairs: PairLogps) -> CompletionLogps:
    return completions(torch.stack((pairs.chosen, pairs.rejected), dim=-1).flatten())


def test_losses_of_the_fact_sheet(close, float64) -> None:
    # log-ratios (1, -.5, .5) in rank order, beta .1
    reference = completions(float64(-10, -20, -30))
    output = PlackettLuceDPO(beta=0.1)(completions(float64(-9, -20.5, -29.5)), reference, TRIPLE)
    close(output.losses, (1.7782703724,))
    close(output.rewards, (0.1, -0.05, 0.05))


def test_two_completions_are_dpo_to_the_bit(close, policy: PairLogps, reference: PairLogps) -> None:
    ours = PlackettLuceDPO(beta=0.1)(interleaved(policy), interleaved(reference), PAIRS)
    theirs = DPO(beta=0.1)(policy, reference)
    close(ours.losses, (0.6209570478, 0.7443966601, 0.7709570478))
    torch.testing.assert_close(ours.losses, theirs.losses, rtol=1e-15, atol=0)
    assert torch.equal(ours.rewards[::2], theirs.chosen_rewards)
    assert torch.equal(ours.rewards[1::2], theirs.rejected_rewards)


def test_on_implicit_rewards_it_is_the_reward_models_loss(float64) -> None:
    gaps = float64(0.7, -1.3, 2.2)
    ours = PlackettLuceDPO(beta=0.5)(completions(gaps - 4), completions(torch.full_like(gaps, -4.0)), TRIPLE)
    torch.testing.assert_close(ours.losses, PlackettLuce()(0.5 * gaps, TRIPLE).losses)


@pytest.mark.parametrize("beta", [0.05, 0.5])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_at_the_reference_k_completions_cost_the_log_of_their_orders(close, float64, beta: float, count: int) -> None:
    same = completions(float64(*range(-count, 0)))
    order = Ranking(example_index=torch.zeros(count, dtype=torch.int64), ranks=torch.arange(count), examples=1)
    output = PlackettLuceDPO(beta=beta)(same, same, order)
    close(output.losses, math.log(math.factorial(count)))
    assert output.rewards.tolist() == [0.0] * count


def test_gradients_raise_the_best_and_lower_the_worst(close, float64) -> None:
    logps = float64(-5, -5, -5).requires_grad_()
    PlackettLuceDPO(beta=0.3)(completions(logps), completions(float64(-5, -5, -5)), TRIPLE).losses.sum().backward()
    # beta * (1/3 - 1, 1/3 + 1/2 - 1, 1/3 + 1/2)
    close(logps.grad, (-0.2, -0.05, 0.25))


def test_gradients_are_the_derivatives_of_the_losses(float64) -> None:
    reference = completions(float64(-4, -5, -6))
    loss = PlackettLuceDPO(beta=0.4)
    logps = float64(-3, -6, -5).requires_grad_()
    assert torch.autograd.gradcheck(lambda logps: loss(completions(logps), reference, TRIPLE).losses, (logps,))


def test_rewards_are_detached(float64) -> None:
    logps = float64(-3, -6, -5).requires_grad_()
    output = PlackettLuceDPO(beta=0.4)(completions(logps), completions(float64(-4, -5, -6)), TRIPLE)
    assert output.losses.requires_grad
    assert not output.rewards.requires_grad


def test_policy_and_reference_must_hold_the_same_completions(float64) -> None:
    with pytest.raises(ValueError, match="policy has 3 completions, reference has 1"):
        PlackettLuceDPO(beta=0.1)(completions(float64(-3, -6, -5)), completions(float64(-4)), TRIPLE)


@pytest.mark.parametrize("beta", [0, -0.1, math.inf, math.nan, "0.1", None, True])
def test_beta_out_of_range_is_named(beta: object) -> None:
    with pytest.raises(UserError, match=r"loss\.beta = .*\(0, inf\).*KL"):
        PlackettLuceDPO(beta=beta)  # type: ignore[arg-type]


def test_pairs_of_head_scores_and_pairs_of_log_ratios_share_their_form(float64) -> None:
    scores = PairRewards(chosen=float64(0.4), rejected=float64(-0.2))
    pair = Ranking(example_index=torch.tensor([0, 0]), ranks=torch.tensor([0, 1]), examples=1)
    ours = PlackettLuceDPO(beta=1.0)(completions(float64(0.4, -0.2) - 9), completions(float64(-9, -9)), pair)
    assert ours.losses.item() == pytest.approx(math.log1p(math.exp(-float(scores.chosen - scores.rejected))), rel=1e-12)
