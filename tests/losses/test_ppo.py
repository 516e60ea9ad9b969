from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from alignkit.losses.ppo import PPO
from alignkit.losses.rollout_outputs import PolicyTokens, RolloutOutput, RolloutTokens, ScoredRollout

USUAL = PPO(
    kl_coefficient=0.15,
    clip_range=0.2,
    entropy_coefficient=0.0,
    ptx_coefficient=0.0,
    epochs=4,
    minibatches=1,
    stop_kl=None,
    kl_estimator="k1",
    kl_target=None,
    kl_horizon=10000.0,
    discount=1.0,
    gae_lambda=0.95,
    whiten_rewards=False,
    whiten_advantages=False,
    value_clip_range=0.2,
    value_coefficient=0.1,
    value_trunk="shared",
)
"""Facts 3.3 and 3.7."""
ONE = torch.zeros(3, dtype=torch.int64)


@pytest.fixture
def rollout(float64) -> ScoredRollout:
    """Facts 3.7: of a single completion the log-probs, and the values of the line after it."""
    return ScoredRollout(
        logps=float64(-1, -2, -0.5),
        reference_logps=float64(-1.2, -1.5, -0.6),
        values=float64(0.5, 0.4, 0.3),
        scores=float64(0.8),
        completion_index=ONE,
        example_index=torch.zeros(1, dtype=torch.int64),
    )


@pytest.fixture
def output(float64) -> RolloutOutput:
    """Facts 3.7: the clip and the value clip, of the same three tokens."""
    tokens = RolloutTokens(
        logps=float64(-1, -2, -0.5),
        reference_logps=float64(-1.2, -1.5, -0.6),
        advantages=float64(1, -1, 2),
        returns=float64(1.2, 0.2, 0.4),
        values=float64(0.5, 0.4, 0.3),
        weights=float64(1, 1, 1),
        completion_index=ONE,
        completions=1,
    )
    return USUAL(PolicyTokens(logps=tokens.logps + float64(0.1, -0.3, 0.5), values=float64(0.9, 0.1, 0.5)), tokens)


def test_the_fact_sheets_ratios_and_policy_losses(output: RolloutOutput, close) -> None:
    close(output.ratios, [1.1051709181, 0.7408182207, 1.6487212707])
    close(output.policy_losses, [-1.1051709181, 0.8, -2.4])
    close(output.policy_losses.mean()[None], [-0.9017236394])
    close(output.clipped.mean()[None], [0.6666666667])
    close(output.approx_kl.mean()[None], [0.0583333333])


def test_the_fact_sheets_value_losses(output: RolloutOutput, close) -> None:
    assert output.value_losses is not None
    assert output.value_clipped is not None
    close(2 * output.value_losses, [0.25, 0.01, 0.01])
    close(output.value_losses.mean()[None], [0.045])
    close(output.value_clipped.mean()[None], [0.3333333333])


def test_the_loss_is_the_policys_and_a_tenth_of_the_values(output: RolloutOutput, close) -> None:
    close(output.losses.mean()[None], [-0.9017236394 + 0.1 * 0.045])


def test_without_a_value_clip_errors_are_squared_and_halved(float64, close) -> None:
    # V - G = (-.3, -.1, .1)
    tokens = RolloutTokens(
        logps=float64(0, 0, 0),
        reference_logps=float64(0, 0, 0),
        advantages=float64(0, 0, 0),
        returns=float64(1.2, 0.2, 0.4),
        values=float64(0.5, 0.4, 0.3),
        weights=float64(1, 1, 1),
        completion_index=ONE,
        completions=1,
    )
    output = replace(USUAL, value_clip_range=None)(PolicyTokens(logps=float64(0, 0, 0), values=float64(0.9, 0.1, 0.5)), tokens)
    close(output.losses, [0.1 * 0.045, 0.1 * 0.005, 0.1 * 0.005])
    assert output.value_clipped is not None
    assert output.value_clipped.tolist() == [0, 0, 0]


def test_the_fact_sheets_rewards(rollout: ScoredRollout, close) -> None:
    close(USUAL.advantages(rollout, 0.15).rewards, [-0.03, 0.075, 0.785])


def test_advantages_of_the_fact_sheets_rewards_and_values(rollout: ScoredRollout, float64, close) -> None:
    # Without KL rewards are (0, 0, .8), and with lambda 1 returns are .8 everywhere.
    made = replace(USUAL, gae_lambda=1.0).advantages(rollout, 0.0)
    assert made.returns is not None
    close(made.returns, [0.8, 0.8, 0.8])
    close(made.advantages, [0.3, 0.4, 0.5])


def test_returns_and_rewards_are_those_before_whitening_the_advantages(rollout: ScoredRollout, close) -> None:
    plain, whitened = (replace(USUAL, whiten_advantages=white).advantages(rollout, 0.15) for white in (False, True))
    assert plain.returns is not None
    assert whitened.returns is not None
    close(whitened.returns, plain.returns)
    close(whitened.rewards, plain.rewards)
    close(whitened.advantages.mean()[None], [0.0])
    assert whitened.advantages.square().mean().item() == pytest.approx(1, abs=1e-5)


def test_whitened_rewards_change_what_is_learned_and_not_what_is_reported(rollout: ScoredRollout, close) -> None:
    made = replace(USUAL, whiten_rewards=True, gae_lambda=1.0).advantages(rollout, 0.15)
    close(made.rewards, [-0.03, 0.075, 0.785])
    assert made.returns is not None
    # Mean .2766666667, population deviation .3615...: the first return is the sum of whitened rewards, three times the kept mean.
    close(made.returns[:1], [0.83])


LENGTHS = (3, 1, 5, 2)
MASK = np.arange(5) < np.array(LENGTHS)[:, None]


def pad(values: Tensor, fill: float) -> NDArray[np.float64]:
    table = np.full(MASK.shape, fill)
    table[MASK] = values.numpy()
    return table


def masked_mean(values: NDArray[np.float64]) -> float:
    return float((values * MASK).sum() / MASK.sum())


def masked_whiten(values: NDArray[np.float64], keep_mean: bool) -> NDArray[np.float64]:
    mean = masked_mean(values)
    white = (values - mean) / np.sqrt(masked_mean((values - mean) ** 2) + 1e-8)
    return np.asarray(white + mean if keep_mean else white)


def draw(count: int, seed: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def padded_loss(loss: PPO, rollout: ScoredRollout, policy: PolicyTokens) -> tuple[float, float, float]:
    """As in N+ implementation details: rectangles with fill values, loops over positions, masked means. Loss, clip fraction, approx KL."""
    assert rollout.values is not None
    assert policy.values is not None
    # 1.0 is their log-prob of padding and 0 their value: new, old and reference alike, so that ratios are 1.
    old, reference, new = (pad(logps, 1.0) for logps in (rollout.logps, rollout.reference_logps, policy.logps.detach()))
    values, new_values = pad(rollout.values, 0.0), pad(policy.values.detach(), 0.0)
    rewards = -loss.kl_coefficient * (old - reference)
    for row, length in enumerate(LENGTHS):
        rewards[row, length - 1] += rollout.scores[row].item()
    if loss.whiten_rewards:
        rewards = masked_whiten(rewards, keep_mean=True) * MASK
    advantages = np.zeros_like(rewards)
    for row in range(len(LENGTHS)):
        running = 0.0
        for t in reversed(range(MASK.shape[1])):
            following = values[row, t + 1] if t + 1 < MASK.shape[1] else 0.0
            delta = rewards[row, t] + loss.discount * following - values[row, t]
            running = delta + loss.discount * loss.gae_lambda * running
            advantages[row, t] = running
    returns = advantages + values
    if loss.whiten_advantages:
        advantages = masked_whiten(advantages, keep_mean=False) * MASK
    ratios = np.exp(new - old)
    free, bounded = -advantages * ratios, -advantages * np.clip(ratios, 1 - loss.clip_range, 1 + loss.clip_range)
    errors = (new_values - returns) ** 2
    if loss.value_clip_range is not None:
        inside = np.clip(new_values, values - loss.value_clip_range, values + loss.value_clip_range)
        errors = np.maximum(errors, (inside - returns) ** 2)
    total = masked_mean(np.maximum(free, bounded)) + loss.value_coefficient * 0.5 * masked_mean(errors)
    return total, masked_mean((bounded > free).astype(float)), 0.5 * masked_mean((new - old) ** 2)


@pytest.mark.parametrize(
    "loss",
    [
        USUAL,
        replace(USUAL, whiten_advantages=True),
        replace(USUAL, whiten_advantages=True, whiten_rewards=True, discount=0.9, gae_lambda=0.8),
        replace(USUAL, value_clip_range=None, clip_range=0.05, kl_coefficient=0.0),
    ],
)
def test_ragged_tokens_cost_what_padded_and_masked_ones_do(loss: PPO) -> None:
    index = torch.arange(4).repeat_interleave(torch.tensor(LENGTHS))
    rollout = ScoredRollout(
        logps=draw(11, 0) - 3,
        reference_logps=draw(11, 1) - 3,
        values=draw(11, 2),
        scores=draw(4, 3),
        completion_index=index,
        example_index=torch.arange(4),
    )
    made = loss.advantages(rollout, loss.kl_coefficient)
    tokens = RolloutTokens(
        logps=rollout.logps,
        reference_logps=rollout.reference_logps,
        advantages=made.advantages,
        returns=made.returns,
        values=rollout.values,
        weights=torch.ones(11, dtype=torch.float64),
        completion_index=index,
        completions=4,
    )
    policy = PolicyTokens(logps=rollout.logps + 0.3 * draw(11, 4), values=draw(11, 5))
    found = loss(policy, tokens)
    total, clipped, approx_kl = padded_loss(loss, rollout, policy)
    assert found.losses.mean().item() == pytest.approx(total, abs=1e-12)
    assert found.clipped.mean().item() == pytest.approx(clipped, abs=1e-12)
    assert found.approx_kl.mean().item() == pytest.approx(approx_kl, abs=1e-12)
    assert 0 < clipped < 1


def test_values_follow_their_returns(float64) -> None:
    values = float64(0.0, 0.0, 0.0).requires_grad_()
    tokens = RolloutTokens(
        logps=float64(0, 0, 0),
        reference_logps=float64(0, 0, 0),
        advantages=float64(0, 0, 0),
        returns=float64(1, -1, 0),
        values=float64(0, 0, 0),
        weights=float64(1, 1, 1),
        completion_index=ONE,
        completions=1,
    )
    USUAL(PolicyTokens(logps=float64(0, 0, 0), values=values), tokens).losses.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx([-0.1, 0.1, 0])


def test_without_values_there_is_nothing_to_learn_from(rollout: ScoredRollout, float64) -> None:
    with pytest.raises(ValueError, match="need the values of the rollout"):
        USUAL.advantages(replace(rollout, values=None), 0.15)
    made = USUAL.advantages(rollout, 0.15)
    tokens = RolloutTokens(
        logps=rollout.logps,
        reference_logps=rollout.reference_logps,
        advantages=made.advantages,
        returns=made.returns,
        values=rollout.values,
        weights=float64(1, 1, 1),
        completion_index=ONE,
        completions=1,
    )
    with pytest.raises(ValueError, match="needs values of the policy"):
        USUAL(PolicyTokens(logps=rollout.logps), tokens)
