"""InfoNCE against cross-entropy on cosines.   E examples   C completions   D width"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alignkit.errors import UserError
from alignkit.losses.contrastive import Contrastive
from alignkit.losses.outputs import Ranking

LOSS = Contrastive(temperature=0.5)
NORTH, EAST, SOUTH = (0.0, 1.0), (1.0, 0.0), (0.0, -1.0)


def states(*rows: Sequence[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def ranking(*examples: Sequence[int]) -> Ranking:
    """The ranks of each example's completions."""
    owners = [number for number, ranks in enumerate(examples) for _ in ranks]
    ranks = [rank for ranks in examples for rank in ranks]
    return Ranking(example_index=torch.tensor(owners), ranks=torch.tensor(ranks), examples=len(examples))


def test_losses_by_hand(close) -> None:
    # cosines (1, 0) and (0, -1, 1) over .5; -ln(e^2 / (e^2 + 1)) and -ln(1 / (1 + e^-2 + e^2))
    prompts = states(NORTH, NORTH)
    completions = states(NORTH, EAST, EAST, SOUTH, NORTH)
    losses = LOSS(prompts, completions, ranking((0, 1), (0, 1, 2)))
    close(losses, (math.log(1 + math.exp(-2)), math.log(1 + math.exp(-2) + math.exp(2))))


def test_it_is_the_cross_entropy_of_the_best_completion_among_those_of_its_example() -> None:
    torch.manual_seed(0)
    prompts, completions = torch.randn(2, 6, dtype=torch.float64), torch.randn(7, 6, dtype=torch.float64)
    losses = LOSS(prompts, completions, ranking((2, 0, 1), (3, 1, 2, 0)))
    for loss, prompt, own, best in zip(losses, prompts, completions.split([3, 4]), (1, 3), strict=True):
        cosines = own @ prompt / (own.norm(dim=-1) * prompt.norm())
        torch.testing.assert_close(loss, F.cross_entropy(cosines / 0.5, torch.tensor(best)))


@pytest.mark.parametrize("count", [2, 3, 7])
def test_states_that_say_nothing_cost_the_log_of_their_number(close, count: int) -> None:
    close(LOSS(states(NORTH), states(*[EAST] * count), ranking(range(count))), math.log(count))


def test_one_completion_costs_nothing_and_neither_do_completions_that_are_all_best(close) -> None:
    prompts, completions = states(NORTH, EAST).requires_grad_(), states(SOUTH, NORTH, EAST).requires_grad_()
    losses = LOSS(prompts, completions, ranking((0,), (0, 0)))
    losses.sum().backward()
    assert losses.tolist() == [0.0, 0.0]
    assert prompts.grad is not None
    assert completions.grad is not None
    close(prompts.grad, 0.0)
    close(completions.grad, 0.0)


def test_completions_tied_for_the_best_are_positives_together(close) -> None:
    losses = LOSS(states(NORTH), states(NORTH, EAST, SOUTH), ranking((0, 0, 1)))
    close(losses, -math.log((math.exp(2) + 1) / (math.exp(2) + 1 + math.exp(-2))))


def test_gradients_turn_the_prompt_to_its_best_completion_and_away_from_the_others() -> None:
    prompts, completions = states((1.0, 1.0)).requires_grad_(), states(NORTH, EAST).requires_grad_()
    LOSS(prompts, completions, ranking((0, 1))).sum().backward()
    assert prompts.grad is not None
    assert completions.grad is not None
    assert prompts.grad[0, 1] < 0 < prompts.grad[0, 0]
    assert completions.grad[0, 0] < 0 < completions.grad[1, 1]
    # cosines know no length: along a state itself nothing changes
    assert (prompts * prompts.grad).sum().abs() < 1e-12
    assert (completions * completions.grad).sum(-1).abs().max() < 1e-12


def test_the_length_of_states_does_not_count() -> None:
    torch.manual_seed(0)
    prompts, completions = torch.randn(2, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    order = ranking((0, 1), (1, 0))
    torch.testing.assert_close(LOSS(3 * prompts, 0.1 * completions, order), LOSS(prompts, completions, order))


def test_other_examples_are_no_negatives() -> None:
    torch.manual_seed(0)
    prompts, completions = torch.randn(2, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    whole = LOSS(prompts, completions, ranking((0, 1), (1, 0)))
    torch.testing.assert_close(whole[:1], LOSS(prompts[:1], completions[:2], ranking((0, 1))))


def test_a_smaller_temperature_punishes_a_near_negative_more() -> None:
    prompts, completions, order = states(NORTH), states((1.0, 1.0), NORTH), ranking((0, 1))
    losses = [Contrastive(temperature=temperature)(prompts, completions, order).item() for temperature in (1.0, 0.1, 0.001)]
    assert losses == sorted(losses)
    assert losses[-1] == pytest.approx((1 - math.sqrt(0.5)) / 0.001, rel=1e-6)


def test_gradients_are_the_derivatives_of_the_losses() -> None:
    torch.manual_seed(0)
    leaves = torch.randn(2, 3, dtype=torch.float64, requires_grad=True), torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda prompts, completions: LOSS(prompts, completions, ranking((1, 0, 2), (0, 1))), leaves)


@pytest.mark.parametrize("scale", [1e4, 0.0])
def test_losses_and_gradients_are_finite_for_states_of_any_length(scale: float) -> None:
    prompts, completions = scale * torch.ones(1, 4), scale * torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1]])
    prompts.requires_grad_()
    losses = Contrastive(temperature=0.01)(prompts, completions, ranking((1, 0)))
    losses.sum().backward()
    assert losses.isfinite().all()
    assert prompts.grad is not None
    assert prompts.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_losses_are_float32_at_least(dtype: torch.dtype) -> None:
    prompts, completions = states((1, 2, -1)).to(dtype), states((1, 1, 0), (0.5, -1, 1)).to(dtype)
    losses = LOSS(prompts, completions, ranking((0, 1)))
    assert losses.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(losses.double(), LOSS(prompts.double(), completions.double(), ranking((0, 1))), rtol=1e-5, atol=1e-5)


def test_states_of_other_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="2 prompts and 2 completions for a ranking of 1 examples and 2 completions"):
        LOSS(states(NORTH, EAST), states(NORTH, EAST), ranking((0, 1)))
    with pytest.raises(ValueError, match="3 completions for a ranking"):
        LOSS(states(NORTH), states(NORTH, EAST, SOUTH), ranking((0, 1)))


@pytest.mark.parametrize("temperature", [0, -0.1, math.inf, math.nan, "0.1", None, True])
def test_a_temperature_out_of_range_is_named(temperature: object) -> None:
    with pytest.raises(UserError, match=r"loss\.temperature = .*\(0, inf\)"):
        Contrastive(temperature=temperature)  # type: ignore[arg-type]
