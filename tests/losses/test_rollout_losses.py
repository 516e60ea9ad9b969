"""What holds for every loss on samples of the policy, with the values of its YAML and with others."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from alignkit.errors import UserError
from alignkit.losses.grpo import GRPO
from alignkit.losses.ppo import PPO
from alignkit.losses.rloo import RLOO
from alignkit.losses.rollout_families import RolloutLoss
from alignkit.losses.rollout_outputs import PolicyTokens, RolloutOutput, RolloutTokens, ScoredRollout
from alignkit.resolution import build

CONF = Path(__file__).parents[2] / "conf" / "loss"
CLASSES: dict[str, type[RolloutLoss]] = {"ppo": PPO, "rloo": RLOO, "grpo": GRPO}
YAMLS = {name: yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8")) for name in CLASSES}
FIELDS = {name: [field.name for field in fields(kind)] for name, kind in CLASSES.items()}  # type: ignore[arg-type]
OPTIONS: dict[str, dict[str, Any]] = {name: {field: YAMLS[name][field] for field in FIELDS[name]} for name in CLASSES}
LOSSES = [CLASSES[name](**OPTIONS[name]) for name in CLASSES]
VARIANTS = [
    *LOSSES,
    *(replace(loss, entropy_coefficient=0.3, clip_range=0.01, kl_estimator="k2") for loss in LOSSES),  # type: ignore[call-arg]
    replace(LOSSES[0], value_clip_range=None, whiten_rewards=True, whiten_advantages=False, discount=0.9),  # type: ignore[call-arg]
    replace(LOSSES[2], scale_by_std=False),  # type: ignore[call-arg]
]

each_name = pytest.mark.parametrize("name", CLASSES)
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=CLASSES)
each_variant = pytest.mark.parametrize("loss", VARIANTS)

LENGTHS = torch.tensor([3, 1, 5, 2])
OWNERS = torch.arange(4).repeat_interleave(LENGTHS)


def draw(count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def sampled(dtype: torch.dtype = torch.float64) -> ScoredRollout:
    """Two prompts with two samples each."""
    return ScoredRollout(
        logps=draw(11, 0, dtype) - 3,
        reference_logps=draw(11, 1, dtype) - 3,
        values=draw(11, 2, dtype),
        scores=draw(4, 3, dtype),
        completion_index=OWNERS,
        example_index=torch.tensor([0, 0, 1, 1]),
    )


def stored(loss: RolloutLoss, dtype: torch.dtype = torch.float64, weights: Tensor | None = None) -> RolloutTokens:
    rollout = sampled(dtype)
    made = loss.advantages(rollout, loss.kl_coefficient)
    return RolloutTokens(
        logps=rollout.logps,
        reference_logps=rollout.reference_logps,
        advantages=made.advantages,
        returns=made.returns,
        values=rollout.values,
        weights=torch.ones(11, dtype=dtype) if weights is None else weights,
        completion_index=OWNERS,
        completions=4,
    )


def moved(tokens: RolloutTokens, by: float = 0.1, requires_grad: bool = False) -> PolicyTokens:
    """The policy some steps later."""
    dtype = tokens.logps.dtype
    logps = tokens.logps + by * draw(len(tokens.logps), 4, dtype)
    values, entropies = draw(len(logps), 5, dtype), draw(len(logps), 6, dtype).square()
    return PolicyTokens(
        logps=logps.requires_grad_(requires_grad),
        values=values.requires_grad_(requires_grad),
        entropies=entropies.requires_grad_(requires_grad),
    )


def part(tokens: RolloutTokens, policy: PolicyTokens, completion: int) -> tuple[PolicyTokens, RolloutTokens]:
    """One completion alone."""
    own = tokens.completion_index == completion

    def cut(values: Tensor | None) -> Any:
        return None if values is None else values[own]

    there = {name: cut(getattr(tokens, name)) for name in ("logps", "reference_logps", "advantages", "returns", "values", "weights")}
    alone = RolloutTokens(**there, completion_index=torch.zeros(int(own.sum()), dtype=torch.int64), completions=1)
    return PolicyTokens(logps=cut(policy.logps), values=cut(policy.values), entropies=cut(policy.entropies)), alone


def tensors(output: RolloutOutput) -> dict[str, Tensor]:
    there = {field.name: getattr(output, field.name) for field in fields(output)}
    return {name: tensor for name, tensor in there.items() if tensor is not None}


@each_name
def test_a_file_gives_the_fields_of_the_class_in_order_and_says_what_they_are(name: str) -> None:
    head = ["head"] if CLASSES[name].needs_values else []
    assert list(YAMLS[name]) == ["name", "module", "monitor", *FIELDS[name], *head]
    assert (YAMLS[name]["name"], YAMLS[name]["module"], YAMLS[name]["monitor"]) == (name, "ppo", "val/objective/rlhf_reward")
    title, *keys = (CONF / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert title.startswith("# ")
    assert "arXiv:" in title
    assert all("  # " in line for line in keys[3 : 3 + len(FIELDS[name])])


@each_name
def test_a_loss_is_built_from_the_values_of_its_file(name: str) -> None:
    assert build("alignkit.losses", name, OPTIONS[name], "loss", ()) == CLASSES[name](**OPTIONS[name])
    with pytest.raises(UserError, match=r"loss\.epochs = 1\.5; must be a whole number"):
        build("alignkit.losses", name, OPTIONS[name] | {"epochs": 1.5}, "loss", ())


@each_variant
def test_there_is_one_loss_a_unit(loss: RolloutLoss) -> None:
    tokens = stored(loss)
    output = loss(moved(tokens), tokens)
    units = 11 if loss.per == "token" else 4
    assert output.losses.shape == output.policy_losses.shape == (units,)
    assert {len(tensor) for name, tensor in tensors(output).items() if name not in ("losses", "policy_losses")} == {11}
    assert (output.value_losses is not None) == (output.value_clipped is not None) == loss.needs_values


@each_variant
def test_gradients_are_the_derivatives_of_the_losses(loss: RolloutLoss) -> None:
    tokens = stored(loss)
    policy = moved(tokens, requires_grad=True)

    def total(logps: Tensor, values: Tensor, entropies: Tensor) -> Tensor:
        return loss(PolicyTokens(logps=logps, values=values, entropies=entropies), tokens).losses

    assert torch.autograd.gradcheck(total, (policy.logps, policy.values, policy.entropies))


@each_variant
def test_an_unmoved_policy_has_ratio_1_nothing_clipped_and_no_kl(loss: RolloutLoss) -> None:
    tokens = stored(loss)
    output = loss(moved(tokens, by=0.0), tokens)
    assert output.ratios.tolist() == [1] * 11
    assert output.clipped.tolist() == [0] * 11
    assert output.approx_kl.tolist() == [0] * 11


@each_loss
def test_an_unmoved_policy_has_the_gradient_of_reinforce(loss: RolloutLoss) -> None:
    tokens = stored(loss)
    tokens = replace(tokens, reference_logps=tokens.logps)  # no pull of a KL in the loss
    policy = moved(tokens, by=0.0, requires_grad=True)
    (found,) = torch.autograd.grad(loss(policy, tokens).losses.sum(), policy.logps)
    lengths = LENGTHS[OWNERS] if isinstance(loss, GRPO) else 1
    torch.testing.assert_close(found, -tokens.advantages / lengths, rtol=1e-12, atol=1e-15)


@each_loss
def test_approx_kl_is_half_the_squared_log_ratio(loss: RolloutLoss, close) -> None:
    tokens = stored(loss)
    policy = moved(tokens)
    close(loss(policy, tokens).approx_kl, (policy.logps - tokens.logps) ** 2 / 2)


@each_variant
def test_each_completion_has_its_own_losses_whatever_else_is_in_the_minibatch(loss: RolloutLoss) -> None:
    tokens = stored(loss)
    policy = moved(tokens)
    whole = tensors(loss(policy, tokens))
    parts = [tensors(loss(*part(tokens, policy, completion))) for completion in range(4)]
    for name, tensor in whole.items():
        torch.testing.assert_close(torch.cat([alone[name] for alone in parts]), tensor, rtol=1e-12, atol=1e-14)


@each_variant
def test_a_minibatch_without_completions_has_no_losses(loss: RolloutLoss) -> None:
    none = torch.zeros(0)
    tokens = RolloutTokens(
        logps=none,
        reference_logps=none,
        advantages=none,
        returns=none,
        values=none,
        weights=none,
        completion_index=torch.zeros(0, dtype=torch.int64),
        completions=0,
    )
    policy = PolicyTokens(logps=none.clone().requires_grad_(), values=none, entropies=none)
    output = loss(policy, tokens)
    output.losses.sum().backward()
    assert all(tensor.shape == (0,) for tensor in tensors(output).values())


@each_variant
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_everything_is_float32_at_least(loss: RolloutLoss, dtype: torch.dtype) -> None:
    precise = torch.float64 if dtype == torch.float64 else torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = loss.advantages(sampled(dtype), 0.1)
        tokens = stored(loss, dtype)
        output = loss(moved(tokens), tokens)
    assert {tensor.dtype for tensor in (made.advantages, made.rewards, *tensors(output).values())} == {precise}


@each_loss
def test_all_but_the_losses_are_detached(loss: RolloutLoss) -> None:
    tokens = stored(loss)
    output = loss(moved(tokens, requires_grad=True), tokens)
    assert [name for name, tensor in tensors(output).items() if tensor.requires_grad] == ["losses"]


@each_variant
@pytest.mark.parametrize("far", [1e4, -1e4])
def test_losses_and_gradients_are_finite_far_out(loss: RolloutLoss, far: float) -> None:
    tokens = stored(loss, torch.float32)
    tokens = replace(tokens, reference_logps=tokens.logps.roll(1) - far / 2)
    policy = PolicyTokens(logps=(tokens.logps + far).requires_grad_(), values=torch.full((11,), far), entropies=torch.zeros(11))
    losses = loss(policy, tokens).losses
    losses.sum().backward()
    assert losses.isfinite().all()
    assert policy.logps.grad is not None
    assert policy.logps.grad.isfinite().all()


@each_loss
def test_a_token_that_paid_its_clip_has_no_gradient(loss: RolloutLoss) -> None:
    tokens = replace(stored(loss), advantages=torch.ones(11, dtype=torch.float64))
    tokens = replace(tokens, reference_logps=tokens.logps + 1)
    policy = PolicyTokens(logps=(tokens.logps + 1).requires_grad_(), values=torch.zeros(11), entropies=None)
    output = loss(policy, tokens)
    output.losses.sum().backward()
    assert output.clipped.tolist() == [1] * 11
    assert policy.logps.grad is not None
    assert policy.logps.grad.tolist() == [0] * 11  # nor has the KL to a reference that says the same


@each_loss
def test_rewards_of_a_completion_add_up_to_its_score_less_the_price_of_its_kl(loss: RolloutLoss, close) -> None:
    rollout = sampled()
    price = 0.15 if loss.kl_in_reward else 0.0
    sums = torch.stack([ratios.sum() for ratios in (rollout.logps - rollout.reference_logps).split(LENGTHS.tolist())])
    rewards = torch.stack([rewards.sum() for rewards in loss.advantages(rollout, 0.15).rewards.split(LENGTHS.tolist())])
    close(rewards, rollout.scores - price * sums)


@each_loss
def test_the_handed_in_price_of_kl_counts_and_not_the_field(loss: RolloutLoss) -> None:
    one, other = (replace(loss, kl_coefficient=price).advantages(sampled(), 0.15) for price in (0.01, 3.0))
    torch.testing.assert_close(one.advantages, other.advantages, rtol=0, atol=0)


@each_loss
def test_importance_weights_weigh_the_surrogate_and_nothing_else(loss: RolloutLoss, close) -> None:
    tokens = stored(loss)
    policy = moved(tokens)
    weighted = replace(tokens, weights=torch.where(OWNERS == 2, 0.0, 1.0).double())
    found, plain = loss(policy, weighted), loss(policy, tokens)
    kept = (OWNERS if loss.per == "token" else torch.arange(4)) != 2
    close(found.policy_losses, torch.where(kept, plain.policy_losses, 0))
    close(found.losses - found.policy_losses, plain.losses - plain.policy_losses)
    close(found.ratios, plain.ratios)


@each_loss
def test_entropy_earns_its_coefficient(loss: RolloutLoss, close) -> None:
    tokens = stored(loss)
    policy = moved(tokens)
    assert policy.entropies is not None
    earned = loss(policy, tokens).losses - replace(loss, entropy_coefficient=0.3)(policy, tokens).losses
    parts = policy.entropies.split(LENGTHS.tolist())
    match loss:
        case PPO():
            close(earned, 0.3 * policy.entropies)
        case RLOO():
            close(earned, 0.3 * torch.stack([own.sum() for own in parts]))
        case _:
            close(earned, 0.3 * torch.stack([own.mean() for own in parts]))


@each_loss
def test_missing_entropies_are_refused_where_they_earn_something(loss: RolloutLoss) -> None:
    tokens = stored(loss)
    policy = replace(moved(tokens), entropies=None)
    assert loss(policy, tokens).entropies is None
    with pytest.raises(ValueError, match="entropies of the policy's tokens are needed"):
        replace(loss, entropy_coefficient=0.1)(policy, tokens)


@each_loss
def test_other_tokens_than_are_stored_are_refused(loss: RolloutLoss) -> None:
    one = torch.zeros(1)
    with pytest.raises(ValueError, match="policy has 1 tokens, the rollout has 11"):
        loss(PolicyTokens(logps=one, values=one, entropies=one), stored(loss))


NEVER: tuple[Any, ...] = (math.inf, math.nan, "0.1", True)
POSITIVE = (r"\(0, inf\)", (0, -0.1))
NOT_NEGATIVE = (r"\[0, inf\)", (-0.1,))
FRACTION = (r"\[0, 1\]", (-0.1, 1.1))
COUNT = (r"\[1, inf\)", (0, -1))
RANGES: dict[str, tuple[str, tuple[float, ...]]] = {
    "kl_coefficient": NOT_NEGATIVE,
    "clip_range": POSITIVE,
    "entropy_coefficient": NOT_NEGATIVE,
    "ptx_coefficient": NOT_NEGATIVE,
    "epochs": COUNT,
    "minibatches": COUNT,
    "stop_kl": POSITIVE,
    "kl_target": POSITIVE,
    "kl_horizon": POSITIVE,
    "discount": FRACTION,
    "gae_lambda": FRACTION,
    "value_clip_range": POSITIVE,
    "value_coefficient": NOT_NEGATIVE,
}
OPEN = ("stop_kl", "kl_target", "value_clip_range")
"""Fields that null switches off."""


@pytest.mark.parametrize(("name", "field"), [(name, field) for name in CLASSES for field in FIELDS[name] if field in RANGES])
def test_a_value_out_of_range_is_named(name: str, field: str) -> None:
    allowed, outside = RANGES[field]
    for value in (*outside, *NEVER, *(() if field in OPEN else (None,))):
        with pytest.raises(UserError, match=rf"^loss\.{field} = .*{allowed}.*(Try \d|Null )"):
            CLASSES[name](**OPTIONS[name] | {field: value})
    if field in OPEN:
        CLASSES[name](**OPTIONS[name] | {field: None})


@each_name
def test_every_number_has_a_range(name: str) -> None:
    others = {"kl_estimator", "whiten_rewards", "whiten_advantages", "scale_by_std", "value_trunk"}
    assert set(FIELDS[name]) <= {*RANGES, *others}


def test_an_unknown_value_trunk_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UserError, match=r"^loss\.value_trunk = 'both'; must be one of shared, separate\."):
        CLASSES["ppo"](**OPTIONS["ppo"] | {"value_trunk": "both"})


@each_name
def test_an_unknown_estimator_is_named_with_those_that_there_are(name: str) -> None:
    known = "k2, k3" if name == "grpo" else "k1, k2, k3"
    with pytest.raises(UserError, match=rf"^loss\.kl_estimator = 'k4'; must be one of {known}\."):
        CLASSES[name](**OPTIONS[name] | {"kl_estimator": "k4"})


@pytest.mark.parametrize("name", ["ppo", "rloo"])
def test_a_target_for_a_kl_that_costs_nothing_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"^loss\.kl_target = 6\.0 has no effect while loss\.kl_coefficient = 0.*Try"):
        CLASSES[name](**OPTIONS[name] | {"kl_target": 6.0, "kl_coefficient": 0.0})
