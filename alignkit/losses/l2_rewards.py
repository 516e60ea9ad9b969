"""A penalty on the size of rewards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.losses.families import PairRewardsLoss
from alignkit.losses.outputs import PairRewards, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class L2Rewards(PairRewardsLoss):
    """Squared length of a pair's two rewards: a Gaussian prior on each of them.

        L = r_chosen^2 + r_rejected^2                                        per pair, squared head units

    Beside a preference loss it bounds the margin: with `con_dph` at epsilon 0 and a weight of 0.1 the optimum is a margin of
    1.6335 instead of infinity. A naming trap: the authors of DPH, in their later code (memory-transformer-pt4, weight 0.1), call
    this form `penalty_centered=True`. It pulls each reward to zero; what the literature calls centring is `centered_rewards`.
    """

    formula: ClassVar[str] = "L = r_chosen^2 + r_rejected^2"
    optimum: ClassVar[str] = "r_chosen = r_rejected = 0"

    def __call__(self, scores: PairRewards) -> PairwiseOutput:
        return PairwiseOutput(
            losses=scores.chosen.square() + scores.rejected.square(),
            chosen_rewards=scores.chosen.detach(),
            rejected_rewards=scores.rejected.detach(),
        )
