"""f-DPO with the alpha-divergence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, PairLogpsLoss, log_ratios, smoothed_logistic
from alignkit.losses.outputs import PairLogps, PairwiseOutput

LINEAR_FROM = 30.0
"""Exponent from which `alpha_scores` goes on along the tangent: exp(30) = 1e13, whose square is far from float32's end at 3e38."""


def alpha_scores(log_ratios: Tensor, alpha: float) -> Tensor:
    """The derivative of the alpha-divergence's generator at u = pi / ref: what takes the place of the log-ratio in DPO.

        f'(u) = (1 - u^-alpha) / alpha                                                     [B], from log u [B] nats

    It tends to log u as alpha tends to 0 (reverse KL), and at alpha = 1 it is 1 - 1 / u (forward KL).

    u^-alpha overflows where a completion has become very unlikely, and two infinite scores have no difference. From u^-alpha = e^30 on
    the exponential is therefore continued by its tangent. Unlike a cut-off this keeps the order of the two sides and a gradient for
    the pairs that need it most, and that gradient stays finite when its square is summed.
    """
    exponents = -alpha * log_ratios
    bounded = exponents.clamp(max=LINEAR_FROM)
    return -(torch.expm1(bounded) + torch.exp(bounded) * (exponents - bounded)) / alpha


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class DPOAlpha(PairLogpsLoss):
    """f-DPO with the alpha-divergence: DPO whose policy is kept near the reference by a divergence between reverse and forward KL.

        s(y) = (1 - (pi/ref)(y)^-alpha) / alpha
        L = -log sigmoid(beta (s(chosen) - s(rejected)))                                   per pair, nats

    `dpo` as alpha tends to 0, `dpo_forward_kl` as it tends to 1; ln 2 at policy = reference. Exact while (pi/ref)^-alpha < e^30, beyond
    that see `alpha_scores`. Wang et al. 2023 (arXiv:2309.16240). TRL's alpha is 1 minus the paper's, which we keep; 0.5 is the same
    in both. The paper's reward is beta s; ours are beta * log-ratio, of the same order and comparable with those of DPO.
    """

    formula: ClassVar[str] = "L = -log sigmoid(beta * (s(chosen) - s(rejected))), s = (1 - (pi/ref)^-alpha) / alpha"
    optimum: ClassVar[str] = "none: log-ratios part without bound, but s(chosen) stays below 1 / alpha"

    beta: float
    """Strength of the divergence constraint, > 0."""
    alpha: float
    """Between reverse and forward KL, in (0, 1)."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)
        check_range(
            "loss.alpha",
            self.alpha,
            above=0.0,
            below=1.0,
            hint="Near 0 is reverse KL (loss=dpo), near 1 forward KL (loss=dpo_forward_kl). Try 0.5.",
        )

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        gaps = alpha_scores(chosen, self.alpha) - alpha_scores(rejected, self.alpha)
        return PairwiseOutput(
            losses=smoothed_logistic(self.beta * gaps, epsilon=0.0),
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )

    def value_at_reference(self) -> float:
        return math.log(2)
