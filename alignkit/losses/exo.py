"""Efficient exact optimisation on pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, PairLogpsLoss, log_ratios
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class EXO(PairLogpsLoss):
    """Efficient exact optimisation, its form for pairs: the reverse KL divergence from the labels to the policy's preference.

        q = sigmoid(beta h),  h = log(pi/ref)(chosen) - log(pi/ref)(rejected)
        L = q log(q / (1 - epsilon)) + (1 - q) log((1 - q) / epsilon)                      per pair, nats

    KL((q, 1 - q) || (1 - epsilon, epsilon)), where cDPO has the other direction and adds the entropy of the labels. Falls to 0 at
    beta h = log((1 - epsilon) / epsilon), then rises; bounded by log(1 / epsilon), so a pair that is wrong by far has no gradient
    left. -ln 2 - log(epsilon (1 - epsilon)) / 2 at policy = reference. Ji et al. 2024 (arXiv:2402.00856), eq. 16.
    """

    formula: ClassVar[str] = (
        "L = q log(q / (1 - epsilon)) + (1 - q) log((1 - q) / epsilon), q = sigmoid(beta * h), "
        "h = log(pi/ref)(chosen) - log(pi/ref)(rejected)"
    )
    optimum: ClassVar[str] = "beta h = log((1 - epsilon) / epsilon)"

    beta: float
    """Strength of the KL constraint, > 0."""
    epsilon: float
    """Label smoothing in (0, 0.5): what the labels leave to the rejected side. At 0 the divergence is infinite; 0.001 is usual."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)
        check_range(
            "loss.epsilon",
            self.epsilon,
            above=0.0,
            below=0.5,
            hint="It is what the labels leave to the rejected side: at 0 the loss is infinite, at 0.5 they say nothing. Try 0.001.",
        )

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        z = self.beta * (chosen - rejected)
        right = torch.sigmoid(z) * (F.logsigmoid(z) - math.log1p(-self.epsilon))
        wrong = torch.sigmoid(-z) * (F.logsigmoid(-z) - math.log(self.epsilon))
        return PairwiseOutput(
            losses=right + wrong,
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )

    def value_at_reference(self) -> float:
        return -math.log(2) - (math.log(self.epsilon) + math.log1p(-self.epsilon)) / 2
