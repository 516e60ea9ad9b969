"""Kahneman-Tversky optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, MismatchLevelLoss
from alignkit.losses.outputs import CompletionLogps, CompletionOutput

WEIGHT_HINT = "Balance the classes: weight times count of one should be 1 to 4/3 of the other's. Try 1."


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class KTO(MismatchLevelLoss):
    """Kahneman-Tversky optimisation: desirable completions are to be gains, undesirable ones losses, of a value that saturates.

        l = log(pi/ref)(y),  z = max(0, mean of log(pi/ref) over mismatched completions)   nats, z without gradient
        L = desirable_weight (1 - sigmoid(beta (l - z)))        where y is desirable
        L = undesirable_weight (1 - sigmoid(beta (z - l)))      where it is not            per completion, in [0, weight]

    z estimates the KL divergence of policy and reference, from completions of other prompts of the batch. The gradient is at most
    weight * beta / 4, and vanishes for completions that are right by far and for those that are wrong by far: robust to wrong labels,
    blind to hard examples. Half the weight at policy = reference. Ethayarajh et al. 2024 (arXiv:2402.01306). The
    rewards are beta * l, without z, as in DPO.
    """

    formula: ClassVar[str] = (
        "L = desirable_weight * sigmoid(beta * (z - l)) or undesirable_weight * sigmoid(beta * (l - z)), l = log(pi/ref), z = KL estimate"
    )
    optimum: ClassVar[str] = "none: l rises without bound where desirable, falls without bound where not"

    beta: float
    """How soon the value saturates, > 0: strength of the KL constraint. The authors use 0.1."""
    desirable_weight: float
    """The paper's lambda_D, > 0: weight of desirable completions. 1 where the classes are of one size."""
    undesirable_weight: float
    """The paper's lambda_U, > 0: weight of undesirable completions. 1 where the classes are of one size."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)
        check_range("loss.desirable_weight", self.desirable_weight, above=0.0, hint=WEIGHT_HINT)
        check_range("loss.undesirable_weight", self.undesirable_weight, above=0.0, hint=WEIGHT_HINT)

    def __call__(self, policy: CompletionLogps, reference: CompletionLogps, desirable: Tensor, level: Tensor) -> CompletionOutput:
        log_ratios = labelled_log_ratios(policy, reference, desirable)  # [C] nats
        shortfall = self.beta * (level - log_ratios)
        losses = torch.where(
            desirable,
            self.desirable_weight * torch.sigmoid(shortfall),
            self.undesirable_weight * torch.sigmoid(-shortfall),
        )
        return CompletionOutput(losses=losses, rewards=self.beta * log_ratios.detach())

    def level(self, log_ratios: Tensor) -> Tensor:
        """z [] nats, 0 where there is no mismatched completion: an estimate of a divergence, which is never negative."""
        return log_ratios.detach().sum().div(max(log_ratios.numel(), 1)).clamp(min=0)


def labelled_log_ratios(policy: CompletionLogps, reference: CompletionLogps, desirable: Tensor) -> Tensor:
    """log(policy / reference) of each completion, [C] nats, summed over tokens.

    Raises:
        ValueError: if the two records and the labels are not of the same number of completions.
    """
    if not policy.logps.shape == reference.logps.shape == desirable.shape:
        raise ValueError(
            f"policy has {len(policy.logps)} completions, reference has {len(reference.logps)}, desirable is {list(desirable.shape)}; "
            "must be the same completions in the same order."
        )
    return policy.logps - reference.logps
