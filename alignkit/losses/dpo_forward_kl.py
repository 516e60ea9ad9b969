"""f-DPO with the forward KL divergence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.errors import check_range
from alignkit.losses.dpo_alpha import alpha_scores
from alignkit.losses.families import BETA_HINT, PairLogpsLoss, log_ratios, smoothed_logistic
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class DPOForwardKL(PairLogpsLoss):
    """f-DPO with the forward KL divergence KL(ref || pi), which keeps the policy from dropping what the reference writes.

        L = -log sigmoid(beta ((ref/pi)(rejected) - (ref/pi)(chosen)))                     per pair, nats

    The derivative of the generator, f'(u) = -1 / u, takes the place of DPO's log u. It is bounded above: a chosen completion gains next
    to nothing once it is likelier than under the reference, and costs exponentially below. ln 2 at policy = reference. Exact while
    ref/pi < e^30; beyond, the exponential goes on along its tangent, so that losses and gradients stay finite, see
    `dpo_alpha.alpha_scores`. Wang et al. 2023 (arXiv:2309.16240). The paper's reward is -beta ref/pi; ours are beta * log-ratio, of the
    same order and comparable with those of DPO.
    """

    formula: ClassVar[str] = "L = -log sigmoid(beta * ((ref/pi)(rejected) - (ref/pi)(chosen)))"
    optimum: ClassVar[str] = "none: log-ratios part without bound, but -(ref/pi)(chosen) stays below 0"

    beta: float
    """Strength of the divergence constraint, > 0."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        gaps = alpha_scores(chosen, alpha=1.0) - alpha_scores(rejected, alpha=1.0)
        return PairwiseOutput(
            losses=smoothed_logistic(self.beta * gaps, epsilon=0.0),
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )

    def value_at_reference(self) -> float:
        return math.log(2)
