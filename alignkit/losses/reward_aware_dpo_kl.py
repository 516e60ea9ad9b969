"""DPO towards the rating gap of the data, as a divergence between two preferences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, PairLogpsLoss, log_ratios
from alignkit.losses.outputs import PairLogps, PairwiseOutput
from alignkit.losses.reward_aware_dpo import ETA_HINT, rating_gaps


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RewardAwareDPOKL(PairLogpsLoss):
    """Reward-aware preference optimisation: the policy is to prefer the chosen completion as often as its ratings say.

        h = log(pi/ref)(chosen) - log(pi/ref)(rejected),  g = rating(chosen) - rating(rejected)
        L = KL(sigmoid(eta g) || sigmoid(beta h)) = p log(p / q) + (1 - p) log((1 - p) / (1 - q)),  p = sigmoid(eta g), q = sigmoid(beta h)

    Per pair, nats. Zero exactly where beta h = eta g, like `reward_aware_dpo`, with a gradient that is bounded by beta: a rating that
    is far off moves the policy no more than a wrong label moves DPO, and as g grows the loss becomes DPO's. Nemotron-4
    (arXiv:2406.11704) and Sun et al. 2025 (arXiv:2502.00203). The rewards are beta * log-ratio, as in DPO.
    """

    formula: ClassVar[str] = (
        "L = KL(sigmoid(eta * g) || sigmoid(beta * h)), h = log(pi/ref)(chosen) - log(pi/ref)(rejected), g = rating gap"
    )
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
        margins = self.beta * (chosen - rejected)
        # Differences of log-sigmoids, so that no probability is rounded to 0 or 1 before its logarithm is taken.
        preferred = torch.sigmoid(target) * (F.logsigmoid(target) - F.logsigmoid(margins))
        refused = torch.sigmoid(-target) * (F.logsigmoid(-target) - F.logsigmoid(-margins))
        return PairwiseOutput(
            losses=preferred + refused,
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )
