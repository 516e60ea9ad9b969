"""Binary classifier optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, RunningLevelLoss, smoothed_logistic
from alignkit.losses.kto import labelled_log_ratios
from alignkit.losses.outputs import CompletionLogps, CompletionOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class BCO(RunningLevelLoss):
    """Binary classifier optimisation: the implicit reward, less a shift, is the logit of a classifier of desirable completions.

        r = beta log(pi/ref)(y),  delta = (mean r of desirable + mean r of undesirable) / 2
        L = -log sigmoid(r - delta)      where y is desirable
        L = -log sigmoid(delta - r)      where it is not                                   per completion, nats

    For any delta the two losses of a pair add up to more than its DPO loss; the midpoint is the shift that makes the difference
    small. Jung et al. 2024 (arXiv:2404.04656), without their weights for prompts of unequal kind. delta is the midpoint of two
    moving averages over steps, one a class. TRL's trainer followed the mean of all rewards instead, which leans to the larger
    class; TRL's `bco_pair` has delta = 0. ln 2 at policy = reference while delta is 0. The rewards are r, without delta.
    """

    formula: ClassVar[str] = (
        "L = -log sigmoid(r - delta) or -log sigmoid(delta - r), r = beta * log(pi/ref), delta = midpoint of the classes' mean rewards"
    )
    optimum: ClassVar[str] = "none: r rises without bound where desirable, falls without bound where not"

    beta: float
    """Strength of the KL constraint, > 0. 0.1 is usual."""
    decay: float
    """How much of delta is kept from step to step, in [0, 1): 0 is the midpoint of the last step, 0.9 averages about ten."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)
        check_range("loss.decay", self.decay, low=0.0, below=1.0, hint="It is how much of delta is kept from step to step. Try 0.9.")

    def __call__(self, policy: CompletionLogps, reference: CompletionLogps, desirable: Tensor, level: Tensor) -> CompletionOutput:
        rewards = self.beta * labelled_log_ratios(policy, reference, desirable)  # [C] nats
        logits = rewards - level
        return CompletionOutput(
            losses=smoothed_logistic(torch.where(desirable, logits, -logits), epsilon=0.0),
            rewards=rewards.detach(),
        )
