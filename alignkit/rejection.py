"""Which samples of a policy are worth training on: rejection by chance, the best of each prompt, and the best of all.

K candidates of one prompt   C completions of E prompts   R possible responses
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from alignkit.errors import UserError, check_range

BETA_HINT = "It is the temperature of acceptance: towards 0 the best are taken, towards infinity any. Try 0.5."


def acceptance_chances(scores: Tensor, beta: float) -> Tensor:
    """exp((r - max r) / beta) [K]: the chance that statistical rejection sampling keeps each candidate.

    Samples of a policy that are kept with these chances, the maximum taken over all responses, are samples of the optimum of reward
    against KL, policy * exp(r / beta) / Z. Liu et al. 2023 (arXiv:2309.06657).

    Raises:
        UserError: if `beta` is not above 0.
    """
    check_range("beta", beta, above=0.0, hint=BETA_HINT)
    return ((scores - scores.max()) / beta).exp()


def rejection_sample(scores: Tensor, beta: float, count: int, generator: torch.Generator) -> Tensor:
    """Statistical rejection sampling (RSO): `count` of K candidates, without replacement, towards the optimum at `beta`.

    Rounds over what remains: each candidate is accepted with `acceptance_chances` of the remaining pool, until there are enough. As
    beta falls to 0 these are the `count` best, best first; as it grows, the first ones. Candidates are independent samples, so that
    their order says nothing. Liu et al. 2023 (arXiv:2309.06657), algorithm 1; the authors take 8 of 64 at beta 0.5.

    Args:
        scores: [K] rewards of independent samples of one prompt, on the CPU.
        beta: strength of the KL constraint, above 0, in the unit of the scores.
        count: how many to accept, at most K.
        generator: of the CPU.

    Returns:
        [count] int64, positions in `scores` in the order of acceptance.

    Raises:
        UserError: if `beta` is not above 0 or `count` is not in 1..K.
    """
    check_range("count", count, low=1, high=len(scores), hint=f"There are {len(scores)} candidates; sample more of them or take fewer.")
    remaining, accepted = torch.arange(len(scores)), torch.empty(0, dtype=torch.int64)
    while len(accepted) < count:
        # The best that remains has chance 1, so that each round accepts one at least.
        draws = torch.rand(len(remaining), generator=generator, dtype=torch.float64)
        passes = draws < acceptance_chances(scores[remaining].double(), beta)
        accepted = torch.cat((accepted, remaining[passes]))
        remaining = remaining[~passes]
    return accepted[:count]


def best_per_prompt(scores: Tensor, example_index: Tensor) -> Tensor:
    """The position [E] int64 of the highest score of each prompt, the first one on a tie: what RAFT trains on.

    Dong et al. 2023 (arXiv:2304.06767), algorithm 1.

    Args:
        scores: [C].
        example_index: [C] int64, the prompt of each completion, not decreasing.
    """
    prompts, prompt_of = torch.unique_consecutive(example_index, return_inverse=True)
    best = scores.new_empty(len(prompts)).scatter_reduce(0, prompt_of, scores, "amax", include_self=False)
    positions = torch.arange(len(scores), device=scores.device)
    first = torch.where(scores == best[prompt_of], positions, len(scores))
    return positions.new_empty(len(prompts)).scatter_reduce(0, prompt_of, first, "amin", include_self=False)


def above_quantile(scores: Tensor, keys: Sequence[Hashable], quantile: float) -> Tensor:
    """The positions [*] int64 of distinct samples that score above a quantile of all: rejection-sampling fine-tuning.

    The quantile is interpolated between scores. A score equal to it is left out, unless it is the highest of all: rewards with few
    values do not let the lowest through, and something is always kept. Of kept samples with the same key the first stays. trlx's RFT
    trainer takes the quantile of each prompt on its own, raised from 0.7 towards 0.95 over four rounds on the same samples.

    Args:
        scores: [C], of any number of prompts, on one scale.
        keys: C of them, what makes two samples the same: the prompt and the completion, say.
        quantile: in [0, 1).

    Raises:
        UserError: if `quantile` is out of its range or there are not as many keys as scores.
    """
    check_range("quantile", quantile, low=0.0, below=1.0, hint="It is the share of samples that is left out. Try 0.7.")
    if len(keys) != len(scores):
        raise UserError(f"{len(keys)} keys for {len(scores)} scores; each sample needs its own.")
    kept = ((scores > torch.quantile(scores, quantile)) | (scores == scores.max())).nonzero().flatten().tolist()
    first = {keys[position]: position for position in reversed(kept)}
    return torch.tensor(sorted(first.values()), dtype=torch.int64)


def truncated(probabilities: Tensor, rewards: Tensor, threshold: float) -> Tensor:
    """What keeping all samples of reward >= threshold trains towards: the policy [R] cut off below and normalised.

    KL(truncated | policy) = -log P(kept), nats: of all distributions on the kept responses it is the nearest one.

    Args:
        probabilities: [R], of the policy, with sum 1.
        rewards: [R].
        threshold: in the unit of the rewards.

    Raises:
        UserError: if no response is kept.
    """
    kept = torch.where(rewards >= threshold, probabilities, 0.0)
    if not kept.sum() > 0:
        raise UserError(f"threshold = {threshold:g}; the highest reward of the policy's responses is below it. Take a lower one.")
    return kept / kept.sum()
