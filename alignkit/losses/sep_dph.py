"""Direct preference head, separable loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.errors import check_range
from alignkit.losses.families import EPSILON_HINT, PairRewardsLoss, smoothed_logistic
from alignkit.losses.outputs import PairRewards, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SepDPH(PairRewardsLoss):
    """Separable direct preference head: each score by itself says whether its completion is a chosen one.

        L = -(1 - epsilon) log sigmoid(r_chosen)    - epsilon log sigmoid(-r_chosen)
            -(1 - epsilon) log sigmoid(-r_rejected) - epsilon log sigmoid(r_rejected)      per pair, nats

    The sum, not the mean, of two smoothed logistic losses. Strictly convex for epsilon > 0 with its minimum 2 H(epsilon) at
    r_chosen = log((1 - epsilon) / epsilon) = -r_rejected; scores are calibrated win rates and compare across prompts.
    Hadji-Kyriacou & Arandjelovic 2024 (arXiv:2405.20053).
    """

    formula: ClassVar[str] = (
        "L = -(1 - epsilon) log sigmoid(r_chosen) - epsilon log sigmoid(-r_chosen)"
        " - (1 - epsilon) log sigmoid(-r_rejected) - epsilon log sigmoid(r_rejected)"
    )
    optimum: ClassVar[str] = "r_chosen = -r_rejected = log((1 - epsilon) / epsilon), infinite at epsilon = 0"

    epsilon: float
    """Label smoothing in [0, 0.5): the chance that a label is flipped. The authors use 0.1."""

    def __post_init__(self) -> None:
        check_range("loss.epsilon", self.epsilon, low=0.0, below=0.5, hint=EPSILON_HINT)

    def __call__(self, scores: PairRewards) -> PairwiseOutput:
        return PairwiseOutput(
            losses=smoothed_logistic(scores.chosen, self.epsilon) + smoothed_logistic(-scores.rejected, self.epsilon),
            chosen_rewards=scores.chosen.detach(),
            rejected_rewards=scores.rejected.detach(),
        )
