"""Alignment via optimal transport."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, EPSILON_HINT, SortedPairLoss, log_ratios, smoothed_logistic
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class AOT(SortedPairLoss):
    """Alignment via optimal transport: the rewards of chosen completions, as a distribution, are to dominate those of rejected ones.

        u = log(pi/ref)(chosen), v = log(pi/ref)(rejected), u_(k) and v_(k) the k-th smallest of the global batch of B pairs
        f(z) = -(1 - epsilon) log sigmoid(beta z) - epsilon log sigmoid(-beta z)
        sum of L = sum over k of f(u_(k) - v_(k))                                          nats

    Melnyk et al. 2024 (arXiv:2406.05882), in its form for unpaired data (TRL: `aot_unpaired`): who answers which prompt does not
    enter. f is convex, so equal ranks are the pairing of least total loss: it is at most that of cDPO on the same pairs.

    Each side of a pair meets its partner p, the other side's log-ratio of its own rank, as a constant. With both sides every rank is
    met twice, so a pair's loss is half of f(u - p) + f(q - v) in value and all of it in gradient: f'(u_(k) - v_(k)) reaches u_(k)
    through the first term alone and v_(k) through the second alone, as in the sum over ranks. The rewards are beta * log-ratio.
    """

    formula: ClassVar[str] = "L = cDPO(beta, epsilon) of u_(k) - v_(k), u and v the sorted log(pi/ref) of chosen and of rejected"
    optimum: ClassVar[str] = "beta (u_(k) - v_(k)) = log((1 - epsilon) / epsilon), infinite at epsilon = 0"

    beta: float
    """Strength of the KL constraint, > 0. 0.1 is usual."""
    epsilon: float
    """Label smoothing in [0, 0.5): the chance that the two distributions are swapped; 0 is usual."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)
        check_range("loss.epsilon", self.epsilon, low=0.0, below=0.5, hint=EPSILON_HINT)

    def __call__(self, policy: PairLogps, reference: PairLogps, partners: tuple[Tensor, Tensor]) -> PairwiseOutput:
        """Raises ValueError if there is not one partner for each completion."""
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        of_chosen, of_rejected = partners
        if not of_chosen.shape == of_rejected.shape == chosen.shape:
            raise ValueError(
                f"There are {len(chosen)} pairs with partners {list(of_chosen.shape)} and {list(of_rejected.shape)}; "
                "must be one for each chosen and one for each rejected completion."
            )
        doubled = smoothed_logistic(self.beta * (chosen - of_chosen.detach()), self.epsilon)
        doubled = doubled + smoothed_logistic(self.beta * (of_rejected.detach() - rejected), self.epsilon)
        return PairwiseOutput(
            losses=doubled - doubled.detach() / 2,
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )

    def value_at_reference(self) -> float:
        return math.log(2)


def rank_partners(chosen: Tensor, rejected: Tensor) -> tuple[Tensor, Tensor]:
    """What each completion meets, from the log-ratios [B] of all chosen and of all rejected completions of the global batch.

    Returns, without gradient, for each chosen completion the rejected log-ratio of its rank [B], and for each rejected one the chosen
    log-ratio of its rank [B]: for chosen (3, 1, 2) and rejected (10, 30, 20) these are (30, 10, 20) and (1, 3, 2). Ties keep their
    order, so that every device that sorts the same batch pairs alike.

    Raises:
        ValueError: if the two are not one-dimensional and equally long.
    """
    if chosen.dim() != 1 or chosen.shape != rejected.shape:
        raise ValueError(f"chosen is {list(chosen.shape)}, rejected is {list(rejected.shape)}; must be one-dimensional and equally long.")
    sorted_chosen, chosen_order = torch.sort(chosen.detach(), stable=True)
    sorted_rejected, rejected_order = torch.sort(rejected.detach(), stable=True)
    of_chosen = torch.empty_like(sorted_rejected).scatter_(0, chosen_order, sorted_rejected)
    of_rejected = torch.empty_like(sorted_chosen).scatter_(0, rejected_order, sorted_chosen)
    return of_chosen, of_rejected
