"""Robust DPO."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, EPSILON_HINT, PairLogpsLoss, log_ratios, smoothed_logistic
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RobustDPO(PairLogpsLoss):
    """Robust DPO: from labels that are flipped with chance epsilon, an unbiased estimate of what DPO would be on clean ones.

        z = beta h,  h = log(pi/ref)(chosen) - log(pi/ref)(rejected)
        L = (-(1 - epsilon) log sigmoid(z) + epsilon log sigmoid(-z)) / (1 - 2 epsilon)    per pair, nats
          = -log sigmoid(z) - epsilon / (1 - 2 epsilon) z

    (1 - epsilon) L(h) + epsilon L(-h) is the DPO loss of h. Where cDPO holds the margin back, this pushes it further: the loss falls
    without bound as h grows and its gradient never fades, so training must stop early, and an epsilon above the true chance
    diverges. ln 2 at policy = reference. Ray Chowdhury, Kini & Natarajan 2024 (arXiv:2403.00409).
    """

    formula: ClassVar[str] = (
        "L = -log sigmoid(beta * h) - epsilon / (1 - 2 epsilon) * beta * h, h = log(pi/ref)(chosen) - log(pi/ref)(rejected)"
    )
    optimum: ClassVar[str] = "none: beta h grows without bound, at a slope of at least epsilon / (1 - 2 epsilon)"

    beta: float
    """Strength of the KL constraint, > 0. The authors use 0.1."""
    epsilon: float
    """The chance that a label is flipped, in [0, 0.5). The authors use 0.1; 0 is DPO."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)
        check_range("loss.epsilon", self.epsilon, low=0.0, below=0.5, hint=EPSILON_HINT)

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        return PairwiseOutput(
            losses=smoothed_logistic(self.beta * (chosen - rejected), epsilon=-self.epsilon / (1 - 2 * self.epsilon)),
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )

    def value_at_reference(self) -> float:
        return math.log(2)
