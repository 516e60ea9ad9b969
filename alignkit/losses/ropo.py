"""The noise-tolerant loss of robust preference optimisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, PairLogpsLoss, log_ratios, smoothed_logistic
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ROPO(PairLogpsLoss):
    """The noise-tolerant loss of ROPO: a sigmoid of the margin, and DPO beside it where that is asked for.

        z = beta h,  h = log(pi/ref)(chosen) - log(pi/ref)(rejected)
        L = sigmoid(-z) - dpo_weight log sigmoid(z)                                        per pair, no unit

    The first term is symmetric, sigmoid(-z) + sigmoid(z) = 1: labels flipped with any chance below 1/2 scale its expected gradient and
    leave its direction. Its gradient fades where |z| is large, also on pairs that are wrong by far. 1/2 + dpo_weight ln 2 at policy =
    reference. Liang et al. 2024 (arXiv:2404.04102).

    Only this loss of the paper is here. The rounds in which it filters pairs that look noisy, and the rejection sampling that makes up
    for them, are not. The paper weighs the two terms by functions of one alpha; here the weight of the DPO term is given directly.
    """

    formula: ClassVar[str] = "L = sigmoid(-beta * h) - dpo_weight * log sigmoid(beta * h), h = log(pi/ref)(chosen) - log(pi/ref)(rejected)"
    optimum: ClassVar[str] = "none: beta h grows without bound"

    beta: float
    """Strength of the KL constraint, > 0."""
    dpo_weight: float
    """Weight of the DPO term, >= 0; 0 leaves the symmetric term alone."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)
        check_range("loss.dpo_weight", self.dpo_weight, low=0.0, hint="It weighs the DPO term, which is not noise-tolerant. Try 0.")

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        z = self.beta * (chosen - rejected)
        return PairwiseOutput(
            losses=torch.sigmoid(-z) + self.dpo_weight * smoothed_logistic(z, epsilon=0.0),
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )

    def value_at_reference(self) -> float:
        return 0.5 + self.dpo_weight * math.log(2)
