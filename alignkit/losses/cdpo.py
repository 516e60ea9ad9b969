"""Conservative DPO."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, EPSILON_HINT, PairLogpsLoss, log_ratios, smoothed_logistic
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CDPO(PairLogpsLoss):
    """Conservative DPO: DPO that takes each label to be flipped with chance epsilon.

        z = beta h,  h = log(pi/ref)(chosen) - log(pi/ref)(rejected)
        L = -(1 - epsilon) log sigmoid(z) - epsilon log sigmoid(-z)                        per pair, nats

    Convex in z with its minimum H(epsilon) at z = log((1 - epsilon) / epsilon), where it stops, unlike DPO; ln 2 at policy =
    reference. Mitchell 2023, "A note on DPO with noisy preferences and relationship to IPO", eq. 3
    (https://ericmitchell.ai/cdpo.pdf). It is also the joint term of the DPH losses (arXiv:2405.20053).
    """

    formula: ClassVar[str] = (
        "L = -(1 - epsilon) log sigmoid(beta * h) - epsilon log sigmoid(-beta * h), h = log(pi/ref)(chosen) - log(pi/ref)(rejected)"
    )
    optimum: ClassVar[str] = "beta h = log((1 - epsilon) / epsilon), infinite at epsilon = 0"

    beta: float
    """Strength of the KL constraint, > 0. The DPH authors use 0.1."""
    epsilon: float
    """Label smoothing in [0, 0.5): the chance that a label is flipped. The DPH authors use 0.1; 0 is DPO."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)
        check_range("loss.epsilon", self.epsilon, low=0.0, below=0.5, hint=EPSILON_HINT)

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        return PairwiseOutput(
            losses=smoothed_logistic(self.beta * (chosen - rejected), self.epsilon),
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )

    def value_at_reference(self) -> float:
        return math.log(2)
