"""DPO-Positive."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch.nn.functional as F

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, PairLogpsLoss, log_ratios, smoothed_logistic
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class DPOP(PairLogpsLoss):
    """DPO-Positive: DPO that may not buy its margin by making the chosen completion less likely than the reference does.

        h = log(pi/ref)(chosen) - log(pi/ref)(rejected)
        L = -log sigmoid(beta (h - penalty max(0, log(ref/pi)(chosen))))                   per pair, nats

    DPO wherever the chosen completion is at least as likely as under the reference, so ln 2 at policy = reference. The rewards are
    beta * log-ratio, without the penalty. Pal et al. 2024, "Smaug" (arXiv:2402.13228), eq. 3, whose lambda is our penalty.
    """

    formula: ClassVar[str] = (
        "L = -log sigmoid(beta * (h - penalty * max(0, log(ref/pi)(chosen)))), h = log(pi/ref)(chosen) - log(pi/ref)(rejected)"
    )
    optimum: ClassVar[str] = "none: h grows without bound, at log(pi/ref)(chosen) >= 0 if penalty > 0"

    beta: float
    """Strength of the KL constraint, > 0. The authors use 0.3."""
    penalty: float
    """The paper's lambda, >= 0: margin lost for each nat that the chosen completion falls below the reference. The authors use 50; 0 is
    DPO."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)
        check_range("loss.penalty", self.penalty, low=0.0, hint="It weighs how far the chosen completion is below the reference. Try 50.")

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        # relu has slope 0 at 0 (clamp has 1), so that the first step, where every shortfall is 0, is the one of DPO.
        shortfall = F.relu(-chosen)  # [B] nats
        return PairwiseOutput(
            losses=smoothed_logistic(self.beta * (chosen - rejected - self.penalty * shortfall), epsilon=0.0),
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )

    def value_at_reference(self) -> float:
        return math.log(2)
