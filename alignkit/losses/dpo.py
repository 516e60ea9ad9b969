"""Direct preference optimisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, PairLogpsLoss, log_ratios, smoothed_logistic
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class DPO(PairLogpsLoss):
    """Direct preference optimisation: Bradley-Terry on the reward that makes the policy the optimum of KL-constrained RL.

        reward(y) = beta log(pi(y | x) / pi_ref(y | x))
        L = -log sigmoid(reward(chosen) - reward(rejected))                                per pair, nats

    Falls with the margin without end; ln 2 at policy = reference. Rafailov et al. 2023 (arXiv:2305.18290), eq. 7.
    """

    formula: ClassVar[str] = "L = -log sigmoid(beta * h), h = log(pi/ref)(chosen) - log(pi/ref)(rejected)"
    optimum: ClassVar[str] = "none: beta h grows without bound"

    beta: float
    """Strength of the KL constraint, > 0. The authors use 0.1, and 0.5 for TL;DR."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        return PairwiseOutput(
            losses=smoothed_logistic(self.beta * (chosen - rejected), epsilon=0.0),
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )

    def value_at_reference(self) -> float:
        return math.log(2)
