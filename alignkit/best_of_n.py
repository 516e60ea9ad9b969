"""Best-of-N: sample N completions, keep the one that scores highest. What it gains, and how far it moves the policy.

M samples of a prompt   N of them compete   R possible responses
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from alignkit.errors import check_range


def kl_bound(n: int) -> float:
    """ln N - (N - 1) / N nats: the most that KL(best-of-N | policy) can be, and what it is where no two responses tie.

    Stiennon et al. 2020 (arXiv:2009.01325), appendix G.3; a bound by Beirami et al. 2024 (arXiv:2401.01879).

    Raises:
        UserError: if `n` is less than 1.
    """
    check_range("n", n, low=1)
    return math.log(n) - (n - 1) / n


def win_rate(n: int) -> float:
    """N / (N + 1): how often the best of N scores higher than one more sample of the same policy, a tie counting one half.

    Exact where no two responses tie: each of N + 1 samples is the best of all with the same chance.

    Raises:
        UserError: if `n` is less than 1.
    """
    check_range("n", n, low=1)
    return n / (n + 1)


def rank_chances(samples: int, n: int) -> Tensor:
    """The chance [M] float64 that the i-th lowest of M samples is the best of N of them, drawn without replacement: C(i-1, N-1) / C(M, N).

    Raises:
        UserError: if `n` is not in 1..M.
    """
    check_range("n", n, low=1, high=samples, hint=f"There are {samples} samples of a prompt; more of them cannot compete.")
    subsets = math.comb(samples, n)
    # Quotients of integers, which Python rounds once: the binomials of a thousand samples overflow a float.
    return torch.tensor([math.comb(lower, n - 1) / subsets for lower in range(samples)], dtype=torch.float64)


def expected_best(scores: Tensor, n: int) -> Tensor:
    """The mean score of the best of N, over all subsets of N of the M samples: unbiased for fresh samples, whatever N <= M is.

        sum over i of C(i-1, N-1) / C(M, N) * (i-th lowest score)

    N = 1 is the mean, N = M the maximum. Nakano et al. 2021 (arXiv:2112.09332), appendix I.

    Args:
        scores: [M] of one prompt or [P, M] of P prompts, float.
        n: N.

    Returns:
        [] or [P], in the unit and dtype of the scores.

    Raises:
        UserError: if `n` is not in 1..M.
    """
    chances = rank_chances(scores.shape[-1], n).to(scores.device)
    return (scores.sort(dim=-1).values.double() @ chances).to(scores.dtype)


def best_of_n(probabilities: Tensor, rewards: Tensor, n: int) -> Tensor:
    """The exact distribution [R] of the best of N over a finite table of responses; the first of the tied samples is kept.

        P(y) = p(y) / p(= r_y) * (p(<= r_y)^N - p(< r_y)^N)

    Samples come in no order, so that tied responses share the chance of their reward in proportion to p.

    Args:
        probabilities: [R], of the policy, with sum 1.
        rewards: [R].
        n: N.

    Raises:
        UserError: if `n` is less than 1.
    """
    check_range("n", n, low=1)
    levels, level_of = torch.unique(rewards, return_inverse=True)  # ascending
    masses = probabilities.new_zeros(len(levels)).index_add(0, level_of, probabilities)
    at_most = masses.cumsum(0)
    below = torch.cat((masses.new_zeros(1), at_most[:-1]))
    chances = at_most**n - below**n
    shares = torch.where(probabilities > 0, probabilities / masses[level_of], 0.0)  # a level without mass is 0 / 0
    return shares * chances[level_of]


def best_of_n_kl(probabilities: Tensor, rewards: Tensor, n: int) -> float:
    """KL(best-of-N | policy) in nats of a finite table, exactly; at most `kl_bound(n)`, and less where responses tie or are few.

    Args:
        probabilities: [R], of the policy, with sum 1.
        rewards: [R].
        n: N.

    Raises:
        UserError: if `n` is less than 1.
    """
    best = best_of_n(probabilities, rewards, n)
    return float((torch.xlogy(best, best) - torch.xlogy(best, probabilities)).sum())
