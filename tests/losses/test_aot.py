from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignkit.losses.aot import AOT, rank_partners
from alignkit.losses.cdpo import CDPO
from alignkit.losses.outputs import PairLogps


def logps(chosen: Tensor, rejected: Tensor) -> PairLogps:
    tokens = torch.ones(len(chosen), dtype=torch.int64)
    return PairLogps(chosen=chosen, rejected=rejected, chosen_tokens=tokens, rejected_tokens=tokens)


def against_zero(loss: AOT, chosen: Tensor, rejected: Tensor) -> Tensor:
    """[B] losses of a whole batch with these log-ratios."""
    zeros = torch.zeros_like(chosen, requires_grad=False)
    return loss(logps(chosen, rejected), logps(zeros, zeros), rank_partners(chosen, rejected)).losses


def plain(gaps: Tensor, beta: float, epsilon: float) -> Tensor:
    z = beta * gaps
    return (1 - epsilon) * torch.log1p(torch.exp(-z)) + epsilon * torch.log1p(torch.exp(z))


def random_ratios(pairs: int) -> tuple[Tensor, Tensor]:
    chosen, rejected = torch.randn(2, pairs, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 4
    return chosen.clone().requires_grad_(), rejected.clone().requires_grad_()


def test_losses_of_the_fact_sheets_pairs(close, policy: PairLogps, reference: PairLogps) -> None:
    # Log-ratios (1, -.5, -1) and (-.5, .5, .5): sorted (-1, -.5, 1) and (-.5, .5, .5), so gaps (-.5, -1, .5) by rank. Rejected 2 and 3
    # are tied and keep their order. Chosen 1 2 3 have the gaps .5, -1, -.5, rejected 1 2 3 have -.5, -1, .5; a pair is charged half of
    # each of its two. With f = ln(1 + e^-.1z): f(.5) = .6684596481, f(-1) = .7443966601, f(-.5) = .7184596481.
    output = AOT(beta=0.1, epsilon=0.0)(
        policy, reference, rank_partners(policy.chosen - reference.chosen, policy.rejected - reference.rejected)
    )
    close(output.losses, ((0.6684596480 + 0.7184596480) / 2, 0.7443966601, (0.7184596480 + 0.6684596480) / 2))
    close(output.chosen_rewards, (0.1, -0.05, -0.1))
    close(output.rejected_rewards, (-0.05, 0.05, 0.05))


@pytest.mark.parametrize("epsilon", [0.0, 0.2])
@pytest.mark.parametrize("pairs", [1, 2, 7, 64])
def test_the_batch_costs_and_pulls_as_the_sum_over_ranks(close, pairs: int, epsilon: float) -> None:
    chosen, rejected = random_ratios(pairs)
    total = against_zero(AOT(beta=0.3, epsilon=epsilon), chosen, rejected).sum()
    by_rank = plain(torch.sort(chosen).values - torch.sort(rejected).values, beta=0.3, epsilon=epsilon).sum()
    close(total, by_rank.item())
    for mine, wanted in zip(torch.autograd.grad(total, (chosen, rejected)), torch.autograd.grad(by_rank, (chosen, rejected)), strict=True):
        close(mine, wanted)


def test_parts_of_a_batch_have_the_losses_of_the_whole(close) -> None:
    chosen, rejected = random_ratios(7)
    loss, partners = AOT(beta=0.3, epsilon=0.1), rank_partners(chosen, rejected)
    whole = against_zero(loss, chosen, rejected)
    gradient = torch.autograd.grad(whole.sum(), chosen, retain_graph=True)[0]
    parts = []
    for part in (slice(0, 3), slice(3, 7)):
        zeros = torch.zeros_like(chosen[part], requires_grad=False)
        own = (partners[0][part], partners[1][part])
        parts.append(loss(logps(chosen[part], rejected[part]), logps(zeros, zeros), own).losses)
    close(torch.cat(parts), whole.detach())
    close(torch.autograd.grad(torch.cat(parts).sum(), chosen)[0], gradient)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(chosen=st.lists(st.floats(-20, 20), min_size=4, max_size=4), rejected=st.lists(st.floats(-20, 20), min_size=4, max_size=4))
def test_equal_ranks_are_the_pairing_of_least_loss(float64, chosen: list[float], rejected: list[float]) -> None:
    pairings = [plain(float64(*chosen) - float64(*other), beta=0.5, epsilon=0.1).sum().item() for other in itertools.permutations(rejected)]
    total = against_zero(AOT(beta=0.5, epsilon=0.1), float64(*chosen), float64(*rejected)).sum().item()
    assert total == pytest.approx(min(pairings), rel=1e-12)


def test_a_single_pair_is_a_pair_of_cdpo(close, float64, policy: PairLogps, reference: PairLogps) -> None:
    chosen, rejected = float64(1.5).requires_grad_(), float64(-0.25).requires_grad_()
    zeros = torch.zeros(1, dtype=torch.float64)
    sorted_loss = against_zero(AOT(beta=0.4, epsilon=0.1), chosen, rejected)
    paired_loss = CDPO(beta=0.4, epsilon=0.1)(logps(chosen, rejected), logps(zeros, zeros)).losses
    close(sorted_loss, paired_loss.item())
    for mine, wanted in zip(
        torch.autograd.grad(sorted_loss.sum(), (chosen, rejected)), torch.autograd.grad(paired_loss.sum(), (chosen, rejected)), strict=True
    ):
        close(mine, wanted)


def test_who_answers_which_prompt_does_not_enter(close) -> None:
    chosen, rejected = random_ratios(9)
    loss = AOT(beta=0.3, epsilon=0.0)
    close(against_zero(loss, chosen, rejected.flip(0)).sum(), against_zero(loss, chosen, rejected).sum().item())


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
def test_policy_at_reference_costs_ln_2(close, reference: PairLogps, epsilon: float) -> None:
    loss = AOT(beta=0.3, epsilon=epsilon)
    zeros = torch.zeros(3, dtype=torch.float64)
    assert loss.value_at_reference() == pytest.approx(0.6931471805599453, rel=1e-15)
    close(loss(reference, reference, (zeros, zeros)).losses, 0.6931471806)


def test_the_batch_costs_less_as_chosen_completions_rise_and_rejected_ones_fall(close, float64) -> None:
    chosen, rejected = random_ratios(7)
    totals = [against_zero(AOT(beta=0.3, epsilon=0.0), chosen + lift, rejected - lift).sum().item() for lift in (0.0, 0.5, 1.0, 2.0)]
    assert totals == sorted(totals, reverse=True)
    close(against_zero(AOT(beta=0.1, epsilon=0.0), float64(-1e4, 1e4), float64(1e4, -1e4)), 0.6931471806)  # equal as distributions
    close(against_zero(AOT(beta=0.1, epsilon=0.0), float64(-1e4, -1e4), float64(0, 0)), 1000.0)


def test_partners_have_the_same_rank(float64) -> None:
    of_chosen, of_rejected = rank_partners(float64(3, 1, 2).requires_grad_(), float64(10, 30, 20).requires_grad_())
    assert of_chosen.tolist() == [30, 10, 20]
    assert of_rejected.tolist() == [1, 3, 2]
    assert not of_chosen.requires_grad
    assert not of_rejected.requires_grad


def test_tied_completions_share_their_partners_in_order(float64) -> None:
    of_chosen, of_rejected = rank_partners(float64(5, 5, 5), float64(2, 3, 1))
    assert of_chosen.tolist() == [1, 2, 3]
    assert of_rejected.tolist() == [5, 5, 5]


def test_sides_of_unequal_length_have_no_partners(float64) -> None:
    with pytest.raises(ValueError, match=r"chosen is \[2\], rejected is \[3\]"):
        rank_partners(float64(1, 2), float64(1, 2, 3))


def test_partners_must_be_those_of_the_pairs(float64, policy: PairLogps, reference: PairLogps) -> None:
    with pytest.raises(ValueError, match=r"3 pairs with partners \[3\] and \[1\]"):
        AOT(beta=0.1, epsilon=0.0)(policy, reference, (float64(1, 2, 3), float64(1)))
