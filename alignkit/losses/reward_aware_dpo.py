"""DPO towards the rating gap of the data, as a squared distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, PairLogpsLoss, log_ratios
from alignkit.losses.outputs import PairLogps, PairwiseOutput

ETA_HINT = "It turns the data's rating gap into nats of implicit reward. Try 1."


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RewardAwareDPO(PairLogpsLoss):
    """Reward-aware preference optimisation: the implicit margin is to equal the rating gap, so that a narrow win stays narrow.

        h = log(pi/ref)(chosen) - log(pi/ref)(rejected),  g = rating(chosen) - rating(rejected)
        L = (beta h - eta g)^2 / 2                                                         per pair, nats^2

    Zero exactly where beta h = eta g, beyond which it pulls back; a pair of equal ratings is held together. The squared distance of
    the family of Nemotron-4 (arXiv:2406.11704) and of Sun et al. 2025 (arXiv:2502.00203); `reward_aware_dpo_kl` is its other member.
    At policy = reference it is (eta g)^2 / 2. The rewards are beta * log-ratio, as in DPO.
    """

    formula: ClassVar[str] = "L = (beta * h - eta * g)^2 / 2, h = log(pi/ref)(chosen) - log(pi/ref)(rejected), g = rating gap"
    optimum: ClassVar[str] = "beta h = eta g, g = rating gap"

    beta: float
    """Strength of the KL constraint, > 0. 0.1 is usual."""
    eta: float
    """Nats of implicit margin for one unit of rating, > 0: how far the ratings are spread."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)
        check_range("loss.eta", self.eta, above=0.0, hint=ETA_HINT)

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        """Raises ValueError where the pairs come without margins."""
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        target = self.eta * rating_gaps(policy)  # [B] nats
        return PairwiseOutput(
            losses=(self.beta * (chosen - rejected) - target).square() / 2,
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )


def rating_gaps(policy: PairLogps) -> Tensor:
    """The annotator's rating gap of each pair, [B].

    Raises:
        ValueError: where the pairs come without margins.
    """
    if policy.margins is None:
        raise ValueError("loss.eta scales the rating gap of each pair, but the pairs have none. Use data with ratings or loss=dpo.")
    return policy.margins
