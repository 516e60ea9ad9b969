"""Discovered preference optimisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, PairLogpsLoss, log_ratios, smoothed_logistic
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class DiscoPOP(PairLogpsLoss):
    """DiscoPOP: a loss that a language model proposed, logistic where a pair is wrong and exponential where it is right.

        z = beta h,  h = log(pi/ref)(chosen) - log(pi/ref)(rejected)
        s = sigmoid(z / tau)
        L = (1 - s) (-log sigmoid(z)) + s exp(-z)                                          per pair, no unit

    Not convex: on its way from the logistic to the higher exponential branch it rises, at tau = 0.05 for z from -0.1186 to 0.0720. In
    between lies policy = reference, with the value (1 + ln 2) / 2, where a step on one pair alone lowers its margin. Lu et al. 2024
    (arXiv:2406.08414), who call it the log-ratio modulated loss and discuss this.
    """

    formula: ClassVar[str] = (
        "L = (1 - s) * -log sigmoid(z) + s * exp(-z), s = sigmoid(z / tau), z = beta * h, h = log(pi/ref)(chosen) - log(pi/ref)(rejected)"
    )
    optimum: ClassVar[str] = "none: z grows without bound, but stops at -0.1186 where it starts at 0 or below (tau = 0.05)"

    beta: float
    """Strength of the KL constraint, > 0. The authors use 0.05."""
    tau: float
    """Width of the passage between the two branches in units of z, in (0, 1]. The authors use 0.05."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)
        check_range(
            "loss.tau", self.tau, above=0.0, high=1.0, hint="Beyond 1 the loss of a wrong pair grows like an exponential. Try 0.05."
        )

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        z = self.beta * (chosen - rejected)
        logistic = torch.sigmoid(-z / self.tau) * smoothed_logistic(z, epsilon=0.0)
        # One exponential for both factors: exp(-z) alone overflows where the sigmoid makes it vanish.
        exponential = torch.exp(F.logsigmoid(z / self.tau) - z)
        return PairwiseOutput(
            losses=logistic + exponential,
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )

    def value_at_reference(self) -> float:
        return (1 + math.log(2)) / 2
