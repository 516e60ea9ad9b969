"""Anchored preference optimisation, the form for pairs whose chosen side is worse than the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, PairLogpsLoss, log_ratios
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class APODown(PairLogpsLoss):
    """APO-down: both completions become less likely than under the reference, the rejected one more so.

        r(y) = beta log(pi(y | x) / pi_ref(y | x))
        L = sigmoid(r(chosen)) + sigmoid(r(rejected) - r(chosen))                          per pair, in (0, 2), no unit

    For data whose chosen completions are worse than what the model writes; `apo_zero` is for the others. At policy = reference the
    loss is 1, the rejected side is pushed down and the chosen side is left alone. Once the rejected side is lower, the chosen side is
    pushed down while r(chosen) > r(rejected) / 2, and up below that. D'Oosterlinck et al. 2024 (arXiv:2408.06266), who write
    sigmoid(r(chosen)) - sigmoid(r(chosen) - r(rejected)): ours is that plus 1, which changes no gradient and keeps the loss positive.
    """

    formula: ClassVar[str] = "L = sigmoid(beta * log(pi/ref)(chosen)) + sigmoid(-beta * h), h = log(pi/ref)(chosen) - log(pi/ref)(rejected)"
    optimum: ClassVar[str] = "none: both log-ratios fall without bound, the chosen one is half the rejected one"

    beta: float
    """Strength of the KL constraint, > 0."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        return PairwiseOutput(
            losses=torch.sigmoid(self.beta * chosen) + torch.sigmoid(self.beta * (rejected - chosen)),
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )

    def value_at_reference(self) -> float:
        return 1.0
