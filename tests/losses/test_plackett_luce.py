"""Rankings against products of choice probabilities.   E examples   C completions"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignkit.losses.bradley_terry import BradleyTerry
from alignkit.losses.outputs import PairRewards, Ranking
from alignkit.losses.plackett_luce import PlackettLuce, order_losses

LOSS = PlackettLuce()
REWARDS = st.floats(-50, 50)
EXAMPLE = st.lists(st.tuples(REWARDS, st.integers(0, 3)), min_size=1, max_size=5)


def ranking(*examples: Sequence[int]) -> Ranking:
    """The ranks of each example's completions."""
    owners = [number for number, ranks in enumerate(examples) for _ in ranks]
    ranks = [rank for ranks in examples for rank in ranks]
    as_index = torch.tensor(owners, dtype=torch.int64), torch.tensor(ranks, dtype=torch.int64)
    return Ranking(example_index=as_index[0], ranks=as_index[1], examples=len(examples))


def exact(rewards: Sequence[float], ranks: Sequence[int]) -> float:
    """-ln of the product of each completion's share among those not ranked above it, with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        strengths = [Decimal(reward).exp() for reward in rewards]
        total = Decimal(0)
        for own, rank in zip(strengths, ranks, strict=True):
            total -= (own / sum(other for other, below in zip(strengths, ranks, strict=True) if below >= rank)).ln()
        return float(total)


def all_orders(rewards: Tensor) -> tuple[Tensor, Tensor]:
    """Losses [K!] of every order of K completions, and the rank [K!, K] of each completion in it."""
    orders = torch.tensor(list(itertools.permutations(range(len(rewards)))))
    ranks = orders.argsort(-1)
    return LOSS(rewards.repeat(len(orders)), ranking(*ranks.tolist())).losses, ranks


@pytest.mark.parametrize(
    ("rewards", "ranks", "expected"),
    [
        ((2, 1, 0), (0, 1, 2), 0.7208676520),
        ((2, 1, 0), (2, 1, 0), 3.7208676520),
        ((0, 2, 1), (2, 0, 1), 0.7208676520),  # the order of the rows says nothing
        ((0.3, 0.3, 0.3), (0, 1, 2), 1.7917594692),  # ln 3!
        ((0, 0, 0, 0), (3, 1, 0, 2), 3.1780538303),  # ln 4!
        ((1.5, -0.5), (0, 1), 0.1269280110),
    ],
)
def test_losses_of_the_fact_sheet(close, float64, rewards: tuple, ranks: tuple, expected: float) -> None:
    output = LOSS(float64(*rewards), ranking(ranks))
    close(output.losses, (expected,))
    assert output.rewards.tolist() == list(rewards)


def test_the_first_choice_is_the_best_of_four(close, float64) -> None:
    # The reward model of Ziegler et al.: cross-entropy of the third of four. The rest of the order is the order of the others.
    rewards = float64(0.3, -0.2, 1.1, 0)
    others = LOSS(rewards[[0, 1, 3]], ranking([0, 2, 1])).losses
    close(LOSS(rewards, ranking([1, 3, 0, 2])).losses - others, 0.7201453484)


def test_all_pairs_of_a_ranking_are_another_objective(close, float64) -> None:
    rewards = float64(2, 1, 0)
    pairs = BradleyTerry(use_margin=False, centering=0.0)(PairRewards(chosen=rewards[[0, 0, 1]], rejected=rewards[[1, 2, 2]])).losses
    close(pairs.mean()[None], 0.2511504620)


def test_gradients_of_the_fact_sheet(close, float64) -> None:
    rewards = float64(2, 1, 0).requires_grad_()
    LOSS(rewards, ranking((0, 1, 2))).losses.sum().backward()
    close(rewards.grad, (-0.3347590442, -0.0242129503, 0.3589719945))


@settings(derandomize=True, deadline=None)
@given(examples=st.lists(EXAMPLE, min_size=1, max_size=4))
def test_losses_are_minus_logs_of_choice_probabilities_in_60_digits(examples: list[list[tuple[float, int]]]) -> None:
    rewards = torch.tensor([reward for example in examples for reward, _ in example], dtype=torch.float64)
    losses = LOSS(rewards, ranking(*([rank for _, rank in example] for example in examples))).losses
    expected = [exact([reward for reward, _ in example], [rank for _, rank in example]) for example in examples]
    assert losses.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)


@settings(derandomize=True, deadline=None)
@given(rewards=st.lists(REWARDS, min_size=1, max_size=5))
def test_probabilities_of_all_orders_sum_to_one(rewards: list[float]) -> None:
    losses, _ = all_orders(torch.tensor(rewards, dtype=torch.float64))
    assert losses.neg().exp().sum().item() == pytest.approx(1, abs=1e-12)


@settings(derandomize=True, deadline=None)
@given(better=st.floats(-1e4, 1e4), worse=st.floats(-1e4, 1e4))
def test_two_completions_are_bradley_terry_to_the_bit(float64, better: float, worse: float) -> None:
    pair = BradleyTerry(use_margin=False, centering=0.0)(PairRewards(chosen=float64(better), rejected=float64(worse)))
    assert torch.equal(LOSS(float64(better, worse), ranking((0, 1))).losses, pair.losses)
    assert torch.equal(LOSS(float64(worse, better), ranking((1, 0))).losses, pair.losses)


@settings(derandomize=True, deadline=None)
@given(margin=st.floats(-100, 100))
def test_a_tied_pair_costs_the_pair_in_both_orders(float64, margin: float) -> None:
    # -log sigmoid(z) - log sigmoid(-z) = |z| + 2 ln(1 + e^-|z|)
    loss = LOSS(float64(margin, 0.0), ranking((0, 0))).losses.item()
    assert loss == pytest.approx(abs(margin) + 2 * math.log1p(math.exp(-abs(margin))), rel=1e-12)


def test_a_tie_pulls_rewards_together_and_knows_no_order(close, float64) -> None:
    rewards = float64(1.0, 0.0, 0.5, 0.5).requires_grad_()
    output = LOSS(rewards, ranking((0, 0), (0, 0)))
    output.losses.sum().backward()
    assert rewards.grad is not None
    # d/dz (-log sigmoid(z) - log sigmoid(-z)) = sigmoid(z) - sigmoid(-z), .7310585786 - .2689414214 at 1
    close(rewards.grad, (0.4621171572, -0.4621171572, 0.0, 0.0))
    close(output.losses[1], 2 * math.log(2))
    assert torch.equal(LOSS(float64(0, 1), ranking((0, 0))).losses, LOSS(float64(1, 0), ranking((0, 0))).losses)


def test_only_the_order_of_ranks_counts(float64) -> None:
    rewards = float64(0.3, -1.2, 2.0)
    torch.testing.assert_close(LOSS(rewards, ranking((0, 5, 9))).losses, LOSS(rewards, ranking((0, 1, 2))).losses, rtol=0, atol=0)


def test_an_order_by_reward_is_the_likeliest(float64) -> None:
    losses, ranks = all_orders(float64(1.3, -0.4, 0.2, 2.0))
    assert ranks[losses.argmin()].tolist() == [1, 3, 2, 0]
    assert ranks[losses.argmax()].tolist() == [2, 0, 1, 3]


def test_a_shift_of_all_rewards_of_an_example_changes_nothing(float64) -> None:
    order = ranking((0, 1, 2), (1, 0))
    rewards = float64(1, -0.5, 0.2, 3, 0)
    shifted = rewards + float64(5, 5, 5, -7, -7)
    torch.testing.assert_close(LOSS(shifted, order).losses, LOSS(rewards, order).losses)


def test_annotators_who_follow_the_model_leave_its_rewards_where_they_are(close, float64) -> None:
    # Rankings drawn from the rewards themselves: the expected gradient of the likelihood is zero, exactly. Of pairs made of the
    # best and the worst alone it is not: they are further apart than two completions that are drawn at random.
    rewards = float64(0.8, -0.5, 0.1, 1.4).requires_grad_()
    losses, ranks = all_orders(rewards)
    chances = losses.detach().neg().exp()
    close(torch.autograd.grad((chances * losses).sum(), rewards)[0], 0.0)
    orders = ranks.argsort(-1)
    best_and_worst = PairRewards(chosen=rewards[orders[:, 0]], rejected=rewards[orders[:, -1]])
    pairs = BradleyTerry(use_margin=False, centering=0.0)(best_and_worst).losses
    gradient = torch.autograd.grad((chances * pairs).sum(), rewards)[0]
    assert gradient[3] < -0.01
    assert gradient[1] > 0.01


def test_one_completion_costs_nothing_and_no_completions_cost_nothing(float64) -> None:
    rewards = float64(3.0).requires_grad_()
    losses = LOSS(rewards, ranking((0,))).losses
    losses.sum().backward()
    assert losses.tolist() == [0.0]
    assert rewards.grad is not None
    assert rewards.grad.tolist() == [0.0]
    assert LOSS(float64(), ranking()).losses.shape == (0,)


def test_each_example_has_its_own_loss_whatever_else_is_in_the_batch(float64) -> None:
    rewards, ranks = float64(1, 0.2, -0.7, 0.4, 0.9, 2.0), [(0, 1, 1), (1, 0), (0,)]
    whole = LOSS(rewards, ranking(*ranks)).losses
    parts = [LOSS(part, ranking(own)).losses for part, own in zip(rewards.split([3, 2, 1]), ranks, strict=True)]
    torch.testing.assert_close(whole, torch.cat(parts))


def test_gradients_are_the_derivatives_of_the_losses(float64) -> None:
    order = ranking((0, 1, 2), (1, 0, 0), (0,))
    rewards = float64(1, 0.2, -0.7, 0.4, 0.9, 2.0, 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda rewards: order_losses(rewards, order), (rewards,))


def test_losses_and_gradients_are_finite_far_out() -> None:
    rewards = torch.tensor([1e4, 0.0, -1e4, -1e4, 0.0, 1e4, 5.0], requires_grad=True)
    losses = LOSS(rewards, ranking((0, 1, 2), (0, 1, 2), (0,))).losses
    losses.sum().backward()
    assert losses.tolist() == [0.0, 3e4, 0.0]  # the last: 2e4 behind the best and 1e4 behind the second
    assert rewards.grad is not None
    assert rewards.grad.tolist() == [0, 0, 0, -1, -1, 2, 0]


def test_an_order_that_is_all_but_certain_keeps_its_digits(float64) -> None:
    assert LOSS(float64(30, 0), ranking((0, 1))).losses.item() == pytest.approx(math.exp(-30), rel=1e-12)
    # The best of three, 30 and 35 ahead of a tied pair, costs ln(1 + e^-30 + e^-35) more than the pair alone.
    added = LOSS(float64(30, 0, -5), ranking((0, 1, 1))).losses - LOSS(float64(0, -5), ranking((0, 0))).losses
    assert added.item() == pytest.approx(math.exp(-30) + math.exp(-35), abs=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_losses_are_float32_at_least(dtype: torch.dtype) -> None:
    rewards = torch.tensor([1.0, 0.25, -0.5], dtype=dtype)
    losses = LOSS(rewards, ranking((0, 1, 2))).losses
    assert losses.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(losses.double(), LOSS(rewards.double(), ranking((0, 1, 2))).losses, rtol=1e-5, atol=1e-5)


def test_rewards_are_detached_and_losses_are_not(float64) -> None:
    output = LOSS(float64(1, 0).requires_grad_(), ranking((0, 1)))
    assert output.losses.requires_grad
    assert not output.rewards.requires_grad


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), ()])
def test_scores_of_other_completions_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ranking of"):
        LOSS(torch.zeros(shape), ranking((0, 1)))
