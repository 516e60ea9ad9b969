"""A penalty on rewards that drift away from zero together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.losses.families import PairRewardsLoss
from alignkit.losses.outputs import PairRewards, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CenteredRewards(PairRewardsLoss):
    """Squared sum of a pair's two rewards: picks, of all shifts that a loss on margins leaves open, the one around zero.

        L = (r_chosen + r_rejected)^2                                        per pair, squared head units

    It leaves the margin alone: beside `con_dph` the optimal margin is what it is without. Eisenstein et al. 2023
    (arXiv:2312.09244); a weight of 0.01 is usual. A naming trap: the authors of DPH, in their later code
    (memory-transformer-pt4), call this form `penalty_centered=False`, and `l2_rewards` the centred one.
    """

    formula: ClassVar[str] = "L = (r_chosen + r_rejected)^2"
    optimum: ClassVar[str] = "r_chosen + r_rejected = 0"

    def __call__(self, scores: PairRewards) -> PairwiseOutput:
        return PairwiseOutput(
            losses=(scores.chosen + scores.rejected).square(),
            chosen_rewards=scores.chosen.detach(),
            rejected_rewards=scores.rejected.detach(),
        )
