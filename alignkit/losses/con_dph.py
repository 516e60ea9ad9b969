"""Direct preference head, contrastive loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.errors import check_range
from alignkit.losses.families import EPSILON_HINT, PairRewardsLoss, smoothed_logistic
from alignkit.losses.outputs import PairRewards, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ConDPH(PairRewardsLoss):
    """Contrastive direct preference head: a smoothed logistic loss on the margin of two head scores.

        m = r_chosen - r_rejected
        L = -(1 - epsilon) log sigmoid(m) - epsilon log sigmoid(-m)                        per pair, nats

    Convex in m with its minimum H(epsilon) at m = log((1 - epsilon) / epsilon); a shift of both scores changes nothing, so scores
    compare completions of one prompt only. Hadji-Kyriacou & Arandjelovic 2024 (arXiv:2405.20053).
    """

    formula: ClassVar[str] = "L = -(1 - epsilon) log sigmoid(m) - epsilon log sigmoid(-m), m = r_chosen - r_rejected"
    optimum: ClassVar[str] = "r_chosen - r_rejected = log((1 - epsilon) / epsilon), infinite at epsilon = 0"

    epsilon: float
    """Label smoothing in [0, 0.5): the chance that a label is flipped. The authors use 0.1."""

    def __post_init__(self) -> None:
        check_range("loss.epsilon", self.epsilon, low=0.0, below=0.5, hint=EPSILON_HINT)

    def __call__(self, scores: PairRewards) -> PairwiseOutput:
        margins = scores.chosen - scores.rejected  # [B]
        return PairwiseOutput(
            losses=smoothed_logistic(margins, self.epsilon),
            chosen_rewards=scores.chosen.detach(),
            rejected_rewards=scores.rejected.detach(),
        )
