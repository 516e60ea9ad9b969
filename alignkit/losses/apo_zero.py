"""Anchored preference optimisation, the form for pairs whose chosen side is better than the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, PairLogpsLoss, log_ratios
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class APOZero(PairLogpsLoss):
    """APO-zero: chosen completions become more likely than under the reference, rejected ones less likely, each on its own.

        r(y) = beta log(pi(y | x) / pi_ref(y | x))
        L = sigmoid(-r(chosen)) + sigmoid(r(rejected))                                     per pair, in (0, 2), no unit

    For data whose chosen completions are better than what the model writes; `apo_down` is for the others. Falls in r(chosen), rises
    in r(rejected), and the gradient fades where a side is far from the reference, on either side of it. 1 at policy = reference.
    D'Oosterlinck et al. 2024 (arXiv:2408.06266), who write -sigmoid(r(chosen)) + sigmoid(r(rejected)): ours is that plus 1, which
    changes no gradient and keeps the loss positive.
    """

    formula: ClassVar[str] = "L = sigmoid(-beta * log(pi/ref)(chosen)) + sigmoid(beta * log(pi/ref)(rejected))"
    optimum: ClassVar[str] = "none: log(pi/ref)(chosen) rises and log(pi/ref)(rejected) falls without bound"

    beta: float
    """Strength of the KL constraint, > 0."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        chosen, rejected = log_ratios(policy, reference)  # [B] nats
        return PairwiseOutput(
            losses=torch.sigmoid(-self.beta * chosen) + torch.sigmoid(self.beta * rejected),
            chosen_rewards=self.beta * chosen.detach(),
            rejected_rewards=self.beta * rejected.detach(),
        )

    def value_at_reference(self) -> float:
        return 1.0
