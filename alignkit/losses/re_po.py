"""Robust preference optimisation by expectation-maximisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, AdaptivePairLoss, log_ratios
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RePO(AdaptivePairLoss):
    """Robust preference optimisation: each label is believed as far as the policy and the labels' reliability make it likely.

        z = beta h,  h = log(pi/ref)(chosen) - log(pi/ref)(rejected)
        w = eta sigmoid(z) / (eta sigmoid(z) + (1 - eta) sigmoid(-z)) = sigmoid(z + log(eta / (1 - eta)))      without gradient
        L = -w log sigmoid(z) - (1 - w) log sigmoid(-z)                                    per pair, nats

    Expectation-maximisation: w is the chance that the label is right, and the reliability eta, the level, follows the mean of w.
    The gradient in z, sigmoid(z) - w, is that of DPO at eta = 1, zero at eta = 1/2, and vanishes for pairs that are wrong by far:
    these are taken for flipped labels. ln 2 at policy = reference, at any eta. RE-PO 2025 (arXiv:2509.24159), with one reliability
    for all annotators.
    """

    formula: ClassVar[str] = (
        "L = -w log sigmoid(z) - (1 - w) log sigmoid(-z), z = beta * h, w = sigmoid(z + logit(eta)), "
        "h = log(pi/ref)(chosen) - log(pi/ref)(rejected)"
    )
    optimum: ClassVar[str] = "none: z grows without bound while eta > 1/2"

    beta: float
    """Strength of the KL constraint, > 0. 0.1 is usual."""
    start: float
    """First reliability of the labels, in (0.5, 1]. The authors use 0.9; 1 stays at 1, which is DPO."""
    decay: float
    """How much of the reliability is kept from step to step, in [0, 1): 0 is the mean of w in the last step."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)
        start_hint = "It is the chance that a label is right; at 0.5 nothing is learned. Try 0.9."
        check_range("loss.start", self.start, above=0.5, high=1.0, hint=start_hint)
        check_range("loss.decay", self.decay, low=0.0, below=1.0, hint="It is how much of the reliability is kept. Try 0.9.")

    def __call__(self, policy: PairLogps, reference: PairLogps, level: Tensor) -> PairwiseOutput:
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        margins = self.beta * (chosen - rejected)
        logits = _posterior_logits(margins.detach(), level)
        return PairwiseOutput(
            losses=-torch.sigmoid(logits) * F.logsigmoid(margins) - torch.sigmoid(-logits) * F.logsigmoid(-margins),
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )

    def observe(self, output: PairwiseOutput, level: Tensor) -> Tensor:
        """w [B], the chance that each label is right."""
        return torch.sigmoid(_posterior_logits(output.margins, level))

    def value_at_reference(self) -> float:
        return math.log(2)


def _posterior_logits(margins: Tensor, level: Tensor) -> Tensor:
    """[B] log-odds that a label is right, from margins [B] without gradient and the reliability []; infinite at a reliability of 1."""
    return margins + torch.logit(level.to(margins.dtype))
