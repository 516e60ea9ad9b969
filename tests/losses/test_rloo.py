from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from alignkit.losses.rloo import RLOO
from alignkit.losses.rollout_outputs import PolicyTokens, RolloutTokens, ScoredRollout

USUAL = RLOO(
    kl_coefficient=0.1,
    clip_range=0.2,
    entropy_coefficient=0.0,
    ptx_coefficient=0.0,
    epochs=1,
    minibatches=1,
    stop_kl=None,
    kl_estimator="k1",
    kl_target=None,
    kl_horizon=10000.0,
)
LENGTHS = (2, 1, 3, 2)
INDEX = torch.arange(4).repeat_interleave(torch.tensor(LENGTHS))
ONE_PROMPT = torch.zeros(4, dtype=torch.int64)


def draw(count: int, seed: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rollout(scores: Tensor, log_ratios: Tensor, example_index: Tensor = ONE_PROMPT) -> ScoredRollout:
    reference = draw(8, 7) - 3
    return ScoredRollout(
        logps=reference + log_ratios,
        reference_logps=reference,
        values=None,
        scores=scores,
        completion_index=INDEX,
        example_index=example_index,
    )


def stored(advantages: Tensor, weights: Tensor | None = None) -> RolloutTokens:
    logps = draw(8, 8) - 3
    return RolloutTokens(
        logps=logps,
        reference_logps=logps,
        advantages=advantages,
        returns=None,
        values=None,
        weights=torch.ones_like(logps) if weights is None else weights,
        completion_index=INDEX,
        completions=4,
    )


def test_the_fact_sheets_advantages_stand_at_every_token(float64, close) -> None:
    made = USUAL.advantages(rollout(float64(1, 0, 2, 1), torch.zeros(8)), 0.1)
    close(made.advantages, [0, 0, -1.3333333333, 1.3333333333, 1.3333333333, 1.3333333333, 0, 0])
    assert made.returns is None


def test_a_completion_pays_for_the_sum_of_its_log_ratios(float64, close) -> None:
    # Log-ratios add up to (2, 0, -3, 1): at .1 a nat the scores (1.2, 0, 1.7, 1.1) are worth (1, 0, 2, 1).
    log_ratios = float64(1.5, 0.5, 0, -1, -1, -1, 3, -2)
    made = USUAL.advantages(rollout(float64(1.2, 0, 1.7, 1.1), log_ratios), 0.1)
    close(made.advantages, [0, 0, -1.3333333333, 1.3333333333, 1.3333333333, 1.3333333333, 0, 0])


def test_advantages_of_a_prompt_add_up_to_zero() -> None:
    made = USUAL.advantages(rollout(draw(4, 0), draw(8, 1), torch.tensor([0, 0, 1, 1])), 0.1)
    first = made.advantages[[0, 2, 3, 6]]  # of each completion
    assert (first[0] + first[1]).item() == pytest.approx(0, abs=1e-14)
    assert (first[2] + first[3]).item() == pytest.approx(0, abs=1e-14)


def test_a_completion_is_one_action_with_one_ratio(float64, close) -> None:
    # Facts 3.7's clip, whose log-ratios are spread over the tokens here; a fourth completion has not moved.
    advantages = float64(1, 1, -1, 2, 2, 2, 1, 1)
    changes = float64(0.3, -0.2, -0.3, 0.1, 0.1, 0.3, 0.7, -0.7)
    tokens = stored(advantages)
    output = USUAL(PolicyTokens(logps=tokens.logps + changes), tokens)
    close(output.losses, [-1.1051709181, 0.8, -2.4, -1])
    close(output.ratios, [1.1051709181] * 2 + [0.7408182207] + [1.6487212707] * 3 + [1] * 2)
    assert output.clipped.tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    close(output.approx_kl, changes.square() / 2)


def test_the_weight_of_a_completion_is_the_product_of_its_tokens(float64, close) -> None:
    tokens = stored(torch.ones(8, dtype=torch.float64), float64(0.5, 2, 3, 1, 0.5, 0.5, 0, 1))
    output = USUAL(PolicyTokens(logps=tokens.logps), tokens)
    close(output.losses, [-1, -3, -0.25, 0])


def test_ragged_tokens_cost_what_padded_and_masked_ones_do() -> None:
    prompts, loss = torch.tensor([0, 0, 1, 1]), replace(USUAL, clip_range=0.05)
    drawn = rollout(draw(4, 2), draw(8, 3), prompts)
    made = loss.advantages(drawn, 0.1)
    tokens = replace(stored(made.advantages), logps=drawn.logps, reference_logps=drawn.reference_logps)
    policy = PolicyTokens(logps=drawn.logps + 0.2 * draw(8, 4))
    mask = np.arange(3) < np.array(LENGTHS)[:, None]

    def pad(values: Tensor) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        table = np.zeros(mask.shape)
        table[mask] = values.numpy()
        return table

    old, reference, new = pad(drawn.logps), pad(drawn.reference_logps), pad(policy.logps)
    rewards = drawn.scores.numpy() - 0.1 * (old - reference).sum(1)
    losses = []
    for completion in range(4):
        (other,) = (k for k in range(4) if k != completion and prompts[k] == prompts[completion])
        advantage, ratio = rewards[completion] - rewards[other], np.exp((new - old)[completion].sum())
        losses.append(max(-advantage * ratio, -advantage * np.clip(ratio, 0.95, 1.05)))
    assert loss(policy, tokens).losses.tolist() == pytest.approx(losses, abs=1e-12)


def test_a_better_completion_becomes_likelier() -> None:
    tokens = stored(torch.where(INDEX == 2, 1.0, -0.5).double())
    policy = PolicyTokens(logps=tokens.logps.clone().requires_grad_())
    USUAL(policy, tokens).losses.sum().backward()
    assert policy.logps.grad is not None
    assert (policy.logps.grad < 0).tolist() == (INDEX == 2).tolist()
