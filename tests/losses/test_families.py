"""What holds for every loss, checked on each file of `alignkit/losses` with the values of its YAML: a new loss joins by itself."""

from __future__ import annotations

import dataclasses
import importlib
import math
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor

from alignkit.losses import families
from alignkit.losses.families import (
    AdaptivePairLoss,
    DivergenceLoss,
    Loss,
    MismatchLevelLoss,
    PairLogpsLoss,
    PairRewardsLoss,
    RankedLogpsLoss,
    RankedRewardsLoss,
    RatedRewardsLoss,
    ReferenceFreeLoss,
    RunningLevelLoss,
    SortedPairLoss,
    StatesLoss,
    TokenLoss,
    WeightsLoss,
    smoothed_logistic,
)
from alignkit.losses.outputs import PairLogps, PairRewards, PairwiseOutput
from alignkit.losses.rollout_families import SampledLoss

LOSSES = Path(families.__file__).parent
CONF = Path(__file__).parents[2] / "conf" / "loss"
NAMES = sorted(
    path.stem for path in LOSSES.glob("*.py") if path.stem not in ("__init__", "families", "outputs", "rollout_families", "rollout_outputs")
)


def public_classes(name: str) -> list[type[Loss]]:
    module = importlib.import_module(f"alignkit.losses.{name}")
    own = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
    return [value for value in own if not value.__name__.startswith("_")]


def build(name: str) -> Loss:
    (loss_class,) = public_classes(name)
    options = OmegaConf.load(CONF / f"{name}.yaml")
    return loss_class(**{field.name: options[field.name] for field in fields(loss_class)})


OF_PAIRS = (PairLogpsLoss, ReferenceFreeLoss, AdaptivePairLoss, PairRewardsLoss)
OF_OTHERS = (SortedPairLoss, MismatchLevelLoss, RunningLevelLoss, RankedLogpsLoss, RankedRewardsLoss, RatedRewardsLoss)
OF_MODELS = (TokenLoss, DivergenceLoss, StatesLoss, WeightsLoss)
FAMILIES = (*OF_PAIRS, *OF_OTHERS, *OF_MODELS, SampledLoss)
PENALTIES = ("l2_rewards", "centered_rewards")
"""Parts of an objective that prefer nothing."""
SPECIAL = {
    "apo_down": "lowers the chosen side too, and is level in it at a ratio of 1",
    "discopop": "rises slightly at a margin of 0: its blend of two losses is not monotone",
    "orpo": "is clamped where a completion is certain",
}
"""Losses that do not pull a pair apart where both sides are certain under policy and reference."""
BOUNDED = ("apo_down", "apo_zero", "dpo_alpha", "dpo_forward_kl", "dpo_js", "dpo_nll", "exo", "orpo", "ropo")
"""Losses that stay below 100, or at it, with log-probs that are off by 10,000 nats."""
BUILT = {name: build(name) for name in NAMES}
each_loss = pytest.mark.parametrize("loss", [pytest.param(loss, id=name) for name, loss in BUILT.items()])
each_pair_loss = pytest.mark.parametrize(
    "loss", [pytest.param(loss, id=name) for name, loss in BUILT.items() if isinstance(loss, OF_PAIRS)]
)
each_preference = pytest.mark.parametrize(
    "loss", [pytest.param(loss, id=name) for name, loss in BUILT.items() if isinstance(loss, OF_PAIRS) and name not in PENALTIES]
)
each_plain_preference = pytest.mark.parametrize(
    "loss",
    [pytest.param(loss, id=name) for name, loss in BUILT.items() if isinstance(loss, OF_PAIRS) and name not in {*PENALTIES, *SPECIAL}],
)
each_logps_loss = pytest.mark.parametrize(
    "loss", [pytest.param(loss, id=name) for name, loss in BUILT.items() if isinstance(loss, PairLogpsLoss)]
)


def evaluate(loss: Loss, chosen: Tensor, rejected: Tensor) -> PairwiseOutput:
    """The loss on head scores, or on the log-probs of three-token completions that the reference finds certain."""
    if isinstance(loss, PairRewardsLoss):
        return loss(PairRewards(chosen=chosen, rejected=rejected))
    tokens = torch.full(chosen.shape, 3)
    zeros = torch.zeros_like(chosen, requires_grad=False)
    policy = PairLogps(chosen=chosen, rejected=rejected, chosen_tokens=tokens, rejected_tokens=tokens, margins=zeros + 1)
    reference = PairLogps(chosen=zeros, rejected=zeros, chosen_tokens=tokens, rejected_tokens=tokens)
    if isinstance(loss, ReferenceFreeLoss):
        return loss(policy)
    if isinstance(loss, AdaptivePairLoss):
        return loss(policy, reference, torch.tensor(1.0, dtype=torch.float64))
    assert isinstance(loss, PairLogpsLoss)
    return loss(policy, reference)


def random_pairs(dtype: torch.dtype = torch.float64, requires_grad: bool = False) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(2, 5, generator=numbers, dtype=torch.float64).to(dtype)
    return chosen.requires_grad_(requires_grad), rejected.requires_grad_(requires_grad)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_file_holds_one_public_class_of_one_family(name: str) -> None:
    (loss_class,) = public_classes(name)
    assert sum(issubclass(loss_class, family) for family in FAMILIES) == 1


@each_loss
def test_a_loss_is_a_frozen_value(loss: Loss) -> None:
    assert type(loss).__final__  # type: ignore[attr-defined]
    assert not hasattr(loss, "__dict__")
    twin = type(loss)(**{field.name: getattr(loss, field.name) for field in fields(loss)})  # type: ignore[arg-type]
    assert twin == loss
    assert hash(twin) == hash(loss)
    with pytest.raises((AttributeError, TypeError)):
        loss.formula = "another"  # type: ignore[misc]


@each_loss
def test_a_formula_is_one_line(loss: Loss) -> None:
    assert loss.formula.startswith("L = ")
    assert loss.formula.isprintable()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_cannot_be_built(family: type[Loss]) -> None:
    with pytest.raises(TypeError, match="abstract"):
        family()


@each_pair_loss
def test_gradients_are_the_derivatives_of_the_losses(loss: Loss) -> None:
    assert torch.autograd.gradcheck(lambda chosen, rejected: evaluate(loss, chosen, rejected).losses, random_pairs(requires_grad=True))


@each_plain_preference
def test_an_untrained_pair_is_pulled_apart_in_the_right_direction(loss: Loss) -> None:
    chosen, rejected = (torch.zeros(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    evaluate(loss, chosen, rejected).losses.sum().backward()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert (chosen.grad < 0).all()
    assert (rejected.grad > 0).all()


@each_pair_loss
def test_losses_and_gradients_are_finite_far_out(loss: Loss) -> None:
    chosen = torch.tensor([1e4, -1e4, 0.0, 0.0], requires_grad=True)
    rejected = torch.tensor([0.0, 0.0, 1e4, -1e4], requires_grad=True)
    losses = evaluate(loss, chosen, rejected).losses
    losses.sum().backward()
    assert losses.isfinite().all()
    assert chosen.grad is not None
    assert rejected.grad is not None
    assert chosen.grad.isfinite().all()
    assert rejected.grad.isfinite().all()
    if loss not in [BUILT[name] for name in BOUNDED]:
        assert losses[1] > 100
        assert losses[2] > 100


@each_preference
def test_swapping_chosen_and_rejected_negates_the_margin(loss: Loss) -> None:
    chosen, rejected = random_pairs()
    one_way, other_way = evaluate(loss, chosen, rejected), evaluate(loss, rejected, chosen)
    torch.testing.assert_close(other_way.margins, -one_way.margins, rtol=0, atol=0)
    torch.testing.assert_close(other_way.accuracies, 1 - one_way.accuracies, rtol=0, atol=0)
    torch.testing.assert_close(one_way.accuracies, (chosen > rejected).double(), rtol=0, atol=0)


@each_pair_loss
def test_each_pair_has_its_own_loss_whatever_else_is_in_the_batch(loss: Loss) -> None:
    chosen, rejected = random_pairs()
    whole = evaluate(loss, chosen, rejected).losses
    assert whole.shape == (5,)
    for pair in range(5):
        torch.testing.assert_close(evaluate(loss, chosen[pair : pair + 1], rejected[pair : pair + 1]).losses, whole[pair : pair + 1])


@each_pair_loss
def test_a_batch_without_pairs_has_no_losses(loss: Loss) -> None:
    output = evaluate(loss, torch.zeros(0), torch.zeros(0))
    assert output.losses.shape == output.accuracies.shape == (0,)


@each_pair_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_losses_are_float32_at_least(loss: Loss, dtype: torch.dtype) -> None:
    chosen, rejected = random_pairs(dtype)
    output = evaluate(loss, chosen, rejected)
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    assert output.losses.dtype == output.chosen_rewards.dtype == output.rejected_rewards.dtype == precise
    torch.testing.assert_close(output.losses.double(), evaluate(loss, chosen.double(), rejected.double()).losses, rtol=1e-5, atol=1e-5)


@each_pair_loss
def test_autocast_does_not_lower_the_precision_of_losses(loss: Loss) -> None:
    chosen, rejected = random_pairs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = evaluate(loss, chosen, rejected)
    torch.testing.assert_close(lowered.losses, evaluate(loss, chosen, rejected).losses, rtol=0, atol=0)


@each_pair_loss
def test_rewards_are_detached_and_losses_are_not(loss: Loss) -> None:
    output = evaluate(loss, *random_pairs(requires_grad=True))
    assert output.losses.requires_grad
    assert not output.chosen_rewards.requires_grad
    assert not output.rejected_rewards.requires_grad


@each_logps_loss
def test_policy_equal_to_reference_gives_the_promised_value(loss: PairLogpsLoss, reference: PairLogps) -> None:
    reference = dataclasses.replace(reference, margins=torch.ones(3))
    output = loss(reference, reference)
    if (promised := loss.value_at_reference()) is not None:
        torch.testing.assert_close(output.losses, torch.full((3,), promised, dtype=torch.float64), rtol=1e-12, atol=0)
    assert output.chosen_rewards.tolist() == output.rejected_rewards.tolist() == [0.0, 0.0, 0.0]
    assert output.accuracies.tolist() == [0.5, 0.5, 0.5]


@each_logps_loss
def test_policy_and_reference_must_hold_the_same_pairs(loss: PairLogpsLoss, policy: PairLogps) -> None:
    one = torch.ones(1)
    single = PairLogps(chosen=one, rejected=one, chosen_tokens=one, rejected_tokens=one)
    with pytest.raises(ValueError, match="policy has 3 pairs, reference has 1"):
        loss(policy, single)


@settings(derandomize=True, deadline=None)
@given(margin=st.floats(-1e4, 1e4), epsilon=st.floats(0, 0.5))
def test_smoothed_logistic_equals_the_textbook_form_in_60_digits(exact_logistic, margin: float, epsilon: float) -> None:
    loss = smoothed_logistic(torch.tensor(margin, dtype=torch.float64), epsilon).item()
    assert loss == pytest.approx(exact_logistic(margin, epsilon), rel=1e-12, abs=1e-15)


@settings(derandomize=True, deadline=None)
@given(margin=st.floats(-1e3, 1e3), epsilon=st.floats(0, 0.5))
def test_smoothed_logistic_prefers_the_right_sign_by_one_minus_two_epsilon(margin: float, epsilon: float) -> None:
    z = torch.tensor(margin, dtype=torch.float64)
    difference = (smoothed_logistic(-z, epsilon) - smoothed_logistic(z, epsilon)).item()
    assert difference == pytest.approx((1 - 2 * epsilon) * margin, rel=1e-9, abs=1e-9)


def test_smoothed_logistic_keeps_its_digits_beyond_20() -> None:
    # ln(1 + e^-25) = e^-25 to 11 digits, and minus its derivative is the same number; torch's softplus(-z) gives them at z = 25,
    # and loses e^-25 at z = -25, where the derivative is -(1 - e^-25).
    z = torch.tensor([25.0, -25.0], dtype=torch.float64, requires_grad=True)
    losses = smoothed_logistic(z, 0.0)
    losses.sum().backward()
    assert z.grad is not None
    assert losses.tolist() == pytest.approx([math.exp(-25), 25 + math.exp(-25)], rel=1e-13)
    assert (1 + z.grad[1]).item() == pytest.approx(math.exp(-25), rel=1e-4)
