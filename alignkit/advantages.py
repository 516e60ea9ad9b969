"""From scores of sampled completions to advantages of their tokens: the mathematics between a rollout and a policy gradient.

    N sampled tokens   C completions   E prompts

Everything is ragged: tokens of all completions in one row, `completion_index` [N] says whose they are and does not decrease. Results
are those of tensors padded to the longest completion and masked, without the padding. No gradients flow through rewards and advantages,
which come from stored numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from alignkit.logps import completion_lengths, completion_sums

EXPONENT_LIMIT = 20.0
"""e^20 is 5e8: a token of which two policies say so differently is no evidence of either any more."""


def bounded_exp(exponents: Tensor) -> Tensor:
    """e^x, and beyond `EXPONENT_LIMIT` its tangent there, any shape: finite wherever x is, and its slope never turns or vanishes."""
    slope = math.exp(EXPONENT_LIMIT)
    return exponents.clamp(max=EXPONENT_LIMIT).exp() + slope * torch.relu(exponents - EXPONENT_LIMIT)


def k1_estimates(log_ratios: Tensor) -> Tensor:
    """x: unbiased, of both signs, noisy."""
    return log_ratios


def k2_estimates(log_ratios: Tensor) -> Tensor:
    """x^2 / 2: biased, never negative."""
    return log_ratios.square() / 2


def k3_estimates(log_ratios: Tensor) -> Tensor:
    """e^-x - 1 + x: unbiased, never negative."""
    # expm1 keeps the digits of small ratios, where e^-x - 1 and x cancel; the tangent of `bounded_exp` keeps large ones finite.
    beyond = math.exp(EXPONENT_LIMIT) * torch.relu(-log_ratios - EXPONENT_LIMIT)
    return torch.expm1((-log_ratios).clamp(max=EXPONENT_LIMIT)) + log_ratios + beyond


KL_ESTIMATORS: Mapping[str, Callable[[Tensor], Tensor]] = {"k1": k1_estimates, "k2": k2_estimates, "k3": k3_estimates}


def kl_estimates(log_ratios: Tensor, estimator: str) -> Tensor:
    """Estimates of KL(pi | ref), one a token, from log-ratios x = log pi - log ref [N] of tokens that pi has drawn: [N] nats.

        k1 = x          k2 = x^2 / 2          k3 = e^-x - 1 + x

    As a number in the reward, k1 is what the objective E[score] - beta KL asks for. As a loss on tokens of pi, differentiated with the
    tokens held, k1 has the expected gradient 0, k2 that of KL(pi | ref), k3 that of the forward KL(ref | pi).
    Schulman, http://joschu.net/blog/kl-approx.html.

    Raises:
        KeyError: for an estimator that is none of `KL_ESTIMATORS`.
    """
    return KL_ESTIMATORS[estimator](log_ratios)


def token_rewards(scores: Tensor, log_ratios: Tensor, completion_index: Tensor, *, kl_coefficient: float, estimator: str) -> Tensor:
    """What each token earns [N], in units of the score: it pays for its KL, and the last one of a completion gets the score.

        R_t = -kl_coefficient k(x_t) + 1[t is the last] score

    With k1 a completion's rewards add up to score - kl_coefficient log(pi/ref) of it, whose mean is the objective. Ziegler et al. 2019
    (arXiv:1909.08593), eq. 2.

    Args:
        scores: [C].
        log_ratios: [N] log pi - log ref, nats.
        completion_index: [N] int64; each completion has a token.
    """
    rewards = -kl_coefficient * kl_estimates(log_ratios, estimator)
    last = completion_lengths(completion_index, len(scores)).cumsum(0) - 1
    return rewards.index_add(0, last, scores.to(rewards.dtype))


def generalized_advantages(
    rewards: Tensor, values: Tensor, completion_index: Tensor, *, discount: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates [N] and the returns [N] that a value head is to learn.

        delta_t = R_t + discount V_{t+1} - V_t          V after a completion's last token is 0
        A_t = delta_t + discount gae_lambda A_{t+1}          G_t = A_t + V_t

    Schulman et al. 2016 (arXiv:1506.02438), eq. 16. Steps go over token positions, all completions at once.

    Args:
        rewards: [N], of tokens.
        values: [N], expected before each token.
        completion_index: [N] int64.
    """
    if not len(rewards):
        return rewards, rewards
    lengths = completion_lengths(completion_index, 0)
    positions = torch.arange(len(rewards), device=rewards.device) - (lengths.cumsum(0) - lengths)[completion_index]
    ends = positions == lengths[completion_index] - 1
    following = torch.where(ends, 0, values.roll(-1))
    deltas = rewards + discount * following - values
    longest = int(lengths.max())
    padded = deltas.new_zeros(longest, len(lengths)).index_put((positions, completion_index), deltas)
    running = deltas.new_zeros(len(lengths))
    for position in reversed(range(longest)):
        running = padded[position] + discount * gae_lambda * running
        padded[position] = running
    advantages = padded[positions, completion_index]
    return advantages, advantages + values


def whiten(values: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Values [N] divided by their standard deviation, with mean 0; the old mean stays where `shift_mean` is false.

        (x - mean) / sqrt(var + 1e-8)  (+ mean)          population variance

    1e-8 keeps equal values at 0. Ziegler et al.'s sense of the flag; in torchtune `shift_mean=True` is what keeps the mean.
    """
    mean = values.mean()
    centred = values - mean
    scaled = centred / (centred.square().mean() + 1e-8).sqrt()
    return scaled if shift_mean else scaled + mean


def leave_one_out(rewards: Tensor, example_index: Tensor) -> Tensor:
    """Rewards [C] less the mean reward of the other samples of the same prompt: [C]. 0 for the only sample of a prompt.

        A_i = r_i - mean of r_j, j != i          = K / (K - 1) (r_i - mean r)

    The baseline does not depend on the sample, so that the gradient stays unbiased. Ahmadian et al. 2024 (arXiv:2402.14740), section 2.
    """
    sizes, centred = _centred(rewards, example_index)
    return centred * sizes / (sizes - 1).clamp(min=1)


def group_normalized(rewards: Tensor, example_index: Tensor, *, scale: bool = True) -> Tensor:
    """Rewards [C] less the mean of their prompt, over its unbiased standard deviation: [C]. 0 where all of a prompt are equal.

        A_i = (r_i - mean r) / std r

    Shao et al. 2024 (arXiv:2402.03300), section 4.1.2. Without `scale` the difference alone: Liu et al. 2025 (arXiv:2503.20783),
    who show that the division favours prompts whose samples score almost alike.
    """
    sizes, centred = _centred(rewards, example_index)
    if not scale:
        return centred
    squares = _group_sums(centred.square(), example_index)[example_index]
    deviations = (squares / (sizes - 1).clamp(min=1)).sqrt()
    # Equal rewards may differ from their own mean in the last digit, which the division would blow up to 1.
    extremes = rewards.new_zeros(2, len(completion_lengths(example_index, 0)))
    least, most = (
        extreme.scatter_reduce(0, example_index, rewards, way, include_self=False)
        for extreme, way in zip(extremes, ("amin", "amax"), strict=True)
    )
    differ = (least < most)[example_index]
    return torch.where(differ, centred / torch.where(differ, deviations, 1), 0)


def truncated_weights(log_ratios: Tensor, cap: float) -> Tensor:
    """Importance weights [N] of tokens that an older policy drew: min(cap, pi_now / pi_sampling), without gradient.

    Truncation trades the variance of rare large weights for a bias towards the old policy: Ionides 2008; rho-bar of V-trace, Espeholt
    et al. 2018 (arXiv:1802.01561), eq. 1.

    Args:
        log_ratios: [N] log pi_now - log pi_sampling, nats.
        cap: the largest weight, >= 1.
    """
    return log_ratios.detach().exp().clamp(max=cap)


class Surrogate(NamedTuple):
    """The clipped objective of policy gradients, one value an action, which is a token or a whole completion."""

    losses: Tensor
    """[*] with gradient."""
    ratios: Tensor
    """[*] new over old policy, detached."""
    clipped: Tensor
    """[*] 1 where clipping raises the loss, so that it has no gradient, else 0."""


def clipped_surrogate(log_ratios: Tensor, advantages: Tensor, clip_range: float) -> Surrogate:
    """Pessimistic value of having moved: a better ratio pays up to the clip range, a worse one always costs.

        rho = e^x          L = max(-A rho, -A clip(rho, 1 - clip_range, 1 + clip_range))

    Schulman et al. 2017 (arXiv:1707.06347), eq. 7, negated. Ratios above e^20 grow along the tangent of `bounded_exp`.

    Args:
        log_ratios: [*] x = log pi - log pi_old, nats.
        advantages: [*] A.
        clip_range: > 0.
    """
    ratios = bounded_exp(log_ratios)
    free, bounded = -advantages * ratios, -advantages * ratios.clamp(1 - clip_range, 1 + clip_range)
    return Surrogate(torch.maximum(free, bounded), ratios.detach(), (bounded > free).to(ratios.dtype))


def next_kl_coefficient(coefficient: float, measured_kl: float, *, target: float, horizon: float, samples: int) -> float:
    """The price of KL after an update: raised while the KL is above its target, lowered while it is below.

        beta' = beta (1 + clip(KL / target - 1, -0.2, 0.2) samples / horizon)

    Ziegler et al. 2019 (arXiv:1909.08593), section 2.2.

    Args:
        coefficient: beta.
        measured_kl: mean over completions of the summed log-ratio, nats, on the samples of the update.
        target: KL to aim at, nats per completion.
        horizon: samples over which an error of 20 % multiplies beta by about e^0.2.
        samples: completions of the update.
    """
    error = min(max(measured_kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * samples / horizon)


def _centred(rewards: Tensor, example_index: Tensor) -> tuple[Tensor, Tensor]:
    """For each completion how many samples its prompt has [C], and its reward less their mean [C]."""
    sizes = _group_sums(torch.ones_like(rewards), example_index)[example_index]
    return sizes, rewards - _group_sums(rewards, example_index)[example_index] / sizes


def _group_sums(values: Tensor, example_index: Tensor) -> Tensor:
    """[E] sums over the completions of each prompt."""
    return completion_sums(values, example_index, len(completion_lengths(example_index, 0)))
