from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from alignkit.errors import UserError
from alignkit.losses.grpo import GRPO
from alignkit.losses.rollout_outputs import PolicyTokens, RolloutTokens, ScoredRollout

USUAL = GRPO(
    kl_coefficient=0.04,
    clip_range=0.2,
    entropy_coefficient=0.0,
    ptx_coefficient=0.0,
    epochs=1,
    minibatches=1,
    stop_kl=None,
    kl_estimator="k3",
    scale_by_std=True,
)
LENGTHS = (2, 1, 3, 2)
INDEX = torch.arange(4).repeat_interleave(torch.tensor(LENGTHS))


def draw(count: int, seed: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rollout(scores: Tensor, example_index: Tensor | None = None) -> ScoredRollout:
    return ScoredRollout(
        logps=draw(8, 0) - 3,
        reference_logps=draw(8, 1) - 3,
        values=None,
        scores=scores,
        completion_index=INDEX,
        example_index=torch.zeros(4, dtype=torch.int64) if example_index is None else example_index,
    )


def stored(advantages: Tensor, reference_logps: Tensor | None = None) -> RolloutTokens:
    logps = draw(8, 2) - 3
    return RolloutTokens(
        logps=logps,
        reference_logps=logps if reference_logps is None else reference_logps,
        advantages=advantages,
        returns=None,
        values=None,
        weights=torch.ones_like(logps),
        completion_index=INDEX,
        completions=4,
    )


def test_the_fact_sheets_advantages_stand_at_every_token(float64, close) -> None:
    made = USUAL.advantages(rollout(float64(1, 0, 2, 1)), 0.1)
    close(made.advantages, [0, 0, -1.2247448714, 1.2247448714, 1.2247448714, 1.2247448714, 0, 0])
    close(made.rewards, [0, 1, 0, 0, 0, 2, 0, 1])
    assert made.returns is None


def test_without_the_scale_it_is_dr_grpo(float64, close) -> None:
    made = replace(USUAL, scale_by_std=False).advantages(rollout(float64(1, 0, 2, 1)), 0.1)
    close(made.advantages, [0, 0, -1, 1, 1, 1, 0, 0])


def test_a_prompt_whose_samples_score_alike_teaches_nothing(float64) -> None:
    made = USUAL.advantages(rollout(float64(0.1, 0.1, 3, 4), torch.tensor([0, 0, 1, 1])), 0.1)
    assert made.advantages[:3].tolist() == [0, 0, 0]
    assert (made.advantages[3:] != 0).all()


def test_a_completion_is_the_mean_of_its_tokens(float64, close) -> None:
    # Facts 3.7's clip: losses (-1.1051709181, .8, -2.4) of tokens; here as tokens of completions of 2, 1, 3 and 2.
    advantages = float64(1, -1, 2, 1, -1, 2, 2, 2)
    changes = float64(0.1, -0.3, 0.5, 0.1, -0.3, 0.5, 0.5, 0.5)
    tokens = stored(advantages)
    output = replace(USUAL, kl_coefficient=0.0)(PolicyTokens(logps=tokens.logps + changes), tokens)
    close(output.losses, [(-1.1051709181 + 0.8) / 2, -2.4, -0.9017236394, -2.4])
    assert output.clipped.tolist() == [0, 1, 1, 0, 1, 1, 1, 1]
    close(output.approx_kl[3:6].mean()[None], [0.0583333333])


@pytest.mark.parametrize(("estimator", "of_tokens"), [("k2", (0.02, 0.125, 0.005)), ("k3", (0.0187307531, 0.1487212707, 0.0048374180))])
def test_the_kl_to_the_reference_is_paid_in_the_loss(estimator: str, of_tokens: tuple[float, ...], float64, close) -> None:
    # Facts 3.7's reward shaping: log-ratios (.2, -.5, .1) of the third completion, none of the others.
    log_ratios = float64(0, 0, 0, 0.2, -0.5, 0.1, 0, 0)
    tokens = stored(torch.zeros(8, dtype=torch.float64), draw(8, 2) - 3 - log_ratios)
    output = replace(USUAL, kl_coefficient=0.3, kl_estimator=estimator)(PolicyTokens(logps=tokens.logps), tokens)
    close(output.losses, [0, 0, 0.1 * sum(of_tokens), 0])
    close(output.policy_losses, [0, 0, 0, 0])


def test_the_kl_pulls_towards_the_reference() -> None:
    reference = draw(8, 3) - 3
    tokens = stored(torch.zeros(8, dtype=torch.float64), reference)
    for estimator in ("k2", "k3"):
        policy = PolicyTokens(logps=tokens.logps.clone().requires_grad_())
        replace(USUAL, kl_estimator=estimator)(policy, tokens).losses.sum().backward()
        assert policy.logps.grad is not None
        assert (policy.logps.grad.sign() == (tokens.logps - reference).sign()).all()


def test_the_estimator_without_a_gradient_is_refused() -> None:
    with pytest.raises(UserError, match=r"^loss\.kl_estimator = 'k1'; must be one of k2, k3"):
        replace(USUAL, kl_estimator="k1")


@pytest.mark.parametrize("scale", [True, False])
def test_ragged_tokens_cost_what_padded_and_masked_ones_do(scale: bool) -> None:
    prompts, loss = torch.tensor([0, 0, 1, 1]), replace(USUAL, clip_range=0.05, kl_coefficient=0.4, scale_by_std=scale)
    drawn = rollout(draw(4, 4), prompts)
    made = loss.advantages(drawn, 0.1)
    tokens = replace(stored(made.advantages, drawn.reference_logps), logps=drawn.logps)
    policy = PolicyTokens(logps=drawn.logps + 0.2 * draw(8, 5))
    mask = np.arange(3) < np.array(LENGTHS)[:, None]

    def pad(values: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        table = np.zeros(mask.shape)
        table[mask] = values.numpy()
        return table

    old, reference, new = pad(drawn.logps), pad(drawn.reference_logps), pad(policy.logps)
    losses = []
    for completion in range(4):
        group = drawn.scores.numpy()[prompts.numpy() == prompts[completion].item()]
        advantage = (drawn.scores[completion].item() - group.mean()) / (group.std(ddof=1) if scale else 1)
        total = 0.0
        for t in range(LENGTHS[completion]):
            ratio, x = np.exp(new[completion, t] - old[completion, t]), new[completion, t] - reference[completion, t]
            total += max(-advantage * ratio, -advantage * np.clip(ratio, 0.95, 1.05)) + 0.4 * (np.exp(-x) - 1 + x)
        losses.append(total / LENGTHS[completion])
    assert loss(policy, tokens).losses.tolist() == pytest.approx(losses, abs=1e-12)
