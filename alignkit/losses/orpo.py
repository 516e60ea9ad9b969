"""Odds ratio preference optimisation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from alignkit.errors import check_range
from alignkit.losses.families import ReferenceFreeLoss
from alignkit.losses.outputs import PairLogps, PairwiseOutput

CEILING = -1e-7
"""Nats per token: in its odds, which are infinite at 0, no completion counts as more likely. Log-odds end at 16.2, their slope at 1e7."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ORPO(ReferenceFreeLoss):
    """Odds ratio preference optimisation: supervised fine-tuning and preference learning in one stage, without a reference model.

        a(y) = log pi(y | x) / tokens(y),  P(y) = exp(a(y))                                nats per token
        log odds(y) = a(y) - log(1 - P(y))
        L = -a(chosen) - odds_weight log sigmoid(log odds(chosen) - log odds(rejected))    per pair, nats

    Hong, Lee & Thorne 2024 (arXiv:2403.07691), eq. 6 and 7; `odds_weight` is the paper's lambda (TRL: `beta`). Two differences: the
    likelihood term covers the chosen completion alone, the authors' code counts its prompt too; and it is averaged within each pair,
    not over the tokens of the batch. In the odds, a(y) is taken as at most -1e-7: at 0 they are infinite, and where the policy is that
    sure of a completion their gradient stops. The rewards are a(y), free of `odds_weight`: odds rise with a(y), so accuracy is that
    of the odds ratio.
    """

    formula: ClassVar[str] = (
        "L = -a(chosen) - odds_weight * log sigmoid(log odds(chosen) - log odds(rejected)), a = log pi per token, odds = e^a / (1 - e^a)"
    )
    optimum: ClassVar[str] = "none: a(chosen) rises to 0, a(rejected) falls without bound"

    odds_weight: float
    """The paper's lambda, >= 0: weight of the odds ratio term. The authors use 0.1 for Mistral; 0 is fine-tuning alone."""

    def __post_init__(self) -> None:
        check_range("loss.odds_weight", self.odds_weight, low=0.0, hint="It is the weight of the odds ratio term. Try 0.1.")

    def __call__(self, policy: PairLogps) -> PairwiseOutput:
        chosen, rejected = policy.chosen_means, policy.rejected_means  # [B] nats per token
        log_odds_ratio = _log_odds(chosen) - _log_odds(rejected)
        return PairwiseOutput(
            losses=-chosen - self.odds_weight * F.logsigmoid(log_odds_ratio),
            chosen_rewards=chosen.detach(),
            rejected_rewards=rejected.detach(),
        )


def log1mexp(a: Tensor) -> Tensor:
    """log(1 - e^a) for a <= 0 with all its digits, [...] nats, any shape; -inf at 0.

    log(-expm1(a)) keeps them near 0 and log1p(-e^a) far from it; they meet at -ln 2. Each branch sees values of its own side only:
    the gradient of a branch that is not taken would be multiplied by zero, and zero times infinity is not a number.
    """
    meeting = -math.log(2)
    near = torch.log(-torch.expm1(a.clamp(min=meeting)))
    far = torch.log1p(-torch.exp(a.clamp(max=meeting)))
    return torch.where(a > meeting, near, far)


def _log_odds(means: Tensor) -> Tensor:
    """[B] log(P / (1 - P)) of completions with a mean log-prob [B] per token."""
    bounded = means.clamp(max=CEILING)
    return bounded - log1mexp(bounded)
