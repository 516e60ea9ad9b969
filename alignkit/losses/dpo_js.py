"""f-DPO with the Jensen-Shannon divergence."""

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
class DPOJS(PairLogpsLoss):
    """f-DPO with the Jensen-Shannon divergence: DPO on a log-ratio that saturates where the policy is above the reference.

        s(y) = log sigmoid(log(pi(y | x) / pi_ref(y | x)))
        L = -log sigmoid(beta (s(chosen) - s(rejected)))                                   per pair, nats

    s is the derivative of the generator, f'(u) = log(2 u / (1 + u)), less ln 2, which cancels. Where both completions are far less
    likely than under the reference this is DPO, near the reference DPO at beta / 2; ln 2 at policy = reference. Wang et al. 2023
    (arXiv:2309.16240). The paper's reward is beta f'; ours are beta * log-ratio, of the same order and comparable with those of DPO.
    """

    formula: ClassVar[str] = "L = -log sigmoid(beta * (s(chosen) - s(rejected))), s = log sigmoid(log(pi/ref))"
    optimum: ClassVar[str] = "none: log-ratios part without bound, but s(chosen) stays below 0"

    beta: float
    """Strength of the divergence constraint, > 0."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        return PairwiseOutput(
            losses=smoothed_logistic(self.beta * (F.logsigmoid(chosen) - F.logsigmoid(rejected)), epsilon=0.0),
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )

    def value_at_reference(self) -> float:
        return math.log(2)
