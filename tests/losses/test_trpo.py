"""TRPO's loss: what it shares with PPO, and what it leaves out."""

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
from alignkit.losses.ppo import PPO
from alignkit.losses.rollout_outputs import PolicyTokens, RolloutTokens, ScoredRollout
from alignkit.losses.trpo import TRPO
from alignkit.resolution import build

FILE = Path(__file__).parents[2] / "conf" / "loss" / "trpo.yaml"
YAML = yaml.safe_load(FILE.read_text(encoding="utf-8"))
FIELDS = [field.name for field in fields(TRPO)]
OPTIONS: dict[str, Any] = {name: YAML[name] for name in FIELDS}
LOSS = TRPO(**OPTIONS)
PLAIN = replace(LOSS, whiten_advantages=False)
OF_PPO = PPO(
    **{field.name: OPTIONS[field.name] for field in fields(PPO) if field.name in OPTIONS},
    clip_range=1e9,
    entropy_coefficient=0.0,
    ptx_coefficient=0.0,
    epochs=1,
    minibatches=1,
    stop_kl=None,
    whiten_rewards=False,
    value_clip_range=None,
    value_coefficient=1.0,
    **{name: "shared" for name in ("value_trunk",) if name in {field.name for field in fields(PPO)}},
)
"""PPO that clips nothing."""

OWNERS = torch.arange(4).repeat_interleave(torch.tensor([3, 1, 5, 2]))


def draw(count: int, seed: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sampled() -> ScoredRollout:
    return ScoredRollout(
        logps=draw(11, 0) - 3,
        reference_logps=draw(11, 1) - 3,
        values=draw(11, 2),
        scores=draw(4, 3),
        completion_index=OWNERS,
        example_index=torch.arange(4),
    )


def stored(loss: TRPO | PPO, **changes: Tensor) -> RolloutTokens:
    rollout = sampled()
    made = loss.advantages(rollout, loss.kl_coefficient)
    tokens = RolloutTokens(
        logps=rollout.logps,
        reference_logps=rollout.reference_logps,
        advantages=made.advantages,
        returns=made.returns,
        values=rollout.values,
        weights=torch.ones(11, dtype=torch.float64),
        completion_index=OWNERS,
        completions=4,
    )
    return replace(tokens, **changes)


def policy(tokens: RolloutTokens, by: float = 0.1) -> PolicyTokens:
    return PolicyTokens(logps=(tokens.logps + by * draw(11, 4)).requires_grad_(), values=draw(11, 5))


def test_the_file_gives_the_fields_of_the_class_in_order_and_says_what_they_are() -> None:
    assert list(YAML) == ["name", "module", "monitor", *FIELDS, "head"]
    assert (YAML["name"], YAML["module"], YAML["monitor"]) == ("trpo", "trpo", "val/objective/rlhf_reward")
    title, *lines = FILE.read_text(encoding="utf-8").splitlines()
    assert "arXiv:1502.05477" in title
    assert all("  # " in line for line in lines[3 : 3 + len(FIELDS)])
    assert build("alignkit.losses", "trpo", OPTIONS, "loss", ()) == LOSS


def test_nothing_is_clipped_or_cut_in_minibatches() -> None:
    assert not {"clip_range", "minibatches", "epochs", "stop_kl", "entropy_coefficient", "value_coefficient"} & set(FIELDS)


@pytest.mark.parametrize("whiten", [False, True])
def test_advantages_rewards_and_returns_are_those_of_ppo(whiten: bool) -> None:
    found = replace(LOSS, whiten_advantages=whiten).advantages(sampled(), 0.15)
    expected = replace(OF_PPO, whiten_advantages=whiten).advantages(sampled(), 0.15)
    for name in ("advantages", "rewards", "returns"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=0)


def test_losses_and_value_losses_are_those_of_ppo_without_clips(close) -> None:
    tokens = stored(PLAIN, weights=draw(11, 6).exp())
    said = policy(tokens)
    assert tokens.returns is not None
    assert said.values is not None
    expected = OF_PPO(said, tokens)
    output = PLAIN(said, tokens)
    close(output.losses, expected.policy_losses)
    close(PLAIN.value_losses(said.values, tokens.returns), expected.value_losses)
    close(output.ratios, (said.logps - tokens.logps).exp())
    close(output.approx_kl, expected.approx_kl)
    assert output.value_losses is None
    assert output.clipped.tolist() == [0] * 11


def test_the_fact_sheets_surrogate_without_its_clip(float64, close) -> None:
    # Facts 3.7: ratios of log-ratios .1, -.3, .5 and advantages 1, -1, 2.
    tokens = RolloutTokens(
        logps=float64(-1, -2, -0.5),
        reference_logps=float64(-1.2, -1.5, -0.6),
        advantages=float64(1, -1, 2),
        returns=None,
        values=None,
        weights=float64(1, 1, 1),
        completion_index=torch.zeros(3, dtype=torch.int64),
        completions=1,
    )
    output = LOSS(PolicyTokens(logps=tokens.logps + float64(0.1, -0.3, 0.5)), tokens)
    close(output.losses, [-1.1051709181, 0.7408182207, -3.2974425414])


def test_gradients_are_the_derivatives_of_the_losses() -> None:
    tokens = stored(LOSS)
    assert torch.autograd.gradcheck(lambda logps: LOSS(PolicyTokens(logps=logps), tokens).losses, (policy(tokens).logps,))


def test_an_unmoved_policy_has_the_gradient_of_reinforce(close) -> None:
    tokens = stored(LOSS)
    unmoved = policy(tokens, by=0.0)
    (gradient,) = torch.autograd.grad(LOSS(unmoved, tokens).losses.sum(), unmoved.logps)
    close(gradient, -tokens.advantages)


@pytest.mark.parametrize("far", [1e4, -1e4])
def test_losses_and_gradients_are_finite_far_out(far: float) -> None:
    tokens = stored(LOSS)
    logps = (tokens.logps + far).requires_grad_()
    losses = LOSS(PolicyTokens(logps=logps), tokens).losses
    losses.sum().backward()
    assert losses.isfinite().all()
    assert logps.grad is not None
    assert logps.grad.isfinite().all()


def test_without_values_there_are_no_advantages() -> None:
    with pytest.raises(ValueError, match="need the values of the rollout"):
        LOSS.advantages(replace(sampled(), values=None), 0.1)


def test_other_tokens_than_are_stored_are_refused() -> None:
    with pytest.raises(ValueError, match="policy has 1 tokens, the rollout has 11"):
        LOSS(PolicyTokens(logps=torch.zeros(1)), stored(LOSS))


OUTSIDE: dict[str, tuple[float, ...]] = {
    "kl_coefficient": (-0.1,),
    "kl_target": (0, -1),
    "kl_horizon": (0,),
    "discount": (-0.1, 1.1),
    "gae_lambda": (-0.1, 1.1),
    "value_epochs": (0, -1),
    "max_kl": (0, -0.1),
    "cg_iterations": (0,),
    "damping": (-0.1,),
    "backtracks": (0,),
    "backtrack_ratio": (0, 1, -0.5),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_value_out_of_range_is_named(name: str) -> None:
    for value in (*OUTSIDE[name], math.nan, "0.1", True):
        with pytest.raises(UserError, match=rf"^loss\.{name} = .*Try \d"):
            TRPO(**OPTIONS | {name: value})


def test_every_number_has_a_range() -> None:
    assert set(FIELDS) == {*OUTSIDE, "kl_estimator", "whiten_advantages"}


def test_an_unknown_estimator_and_a_target_without_a_price_are_refused() -> None:
    with pytest.raises(UserError, match=r"^loss\.kl_estimator = 'k4'; must be one of k1, k2, k3\."):
        TRPO(**OPTIONS | {"kl_estimator": "k4"})
    with pytest.raises(UserError, match=r"^loss\.kl_target = 6\.0 has no effect while loss\.kl_coefficient = 0"):
        TRPO(**OPTIONS | {"kl_target": 6.0, "kl_coefficient": 0.0})
