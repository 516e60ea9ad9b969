"""Sequence likelihood calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch.nn.functional as F

from alignkit.errors import check_range
from alignkit.losses.families import ReferenceFreeLoss
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SLiC(ReferenceFreeLoss):
    """Sequence likelihood calibration from human feedback: a hinge on two sequence log-probs, tied to a target by its likelihood.

        L = max(0, delta - log pi(chosen) + log pi(rejected)) - nll_weight log pi(chosen)  per pair, nats, summed over tokens

    Zhao et al. 2023 (arXiv:2305.10425). Both terms are likelihoods of whole sequences. The target y_ref of the second term is the
    chosen completion: the data hold no other. No reference model enters the hinge; with one, and with beta inside, it is the hinge of
    RSO (arXiv:2309.06657), which TRL calls `hinge`. The rewards are the log-probs that the hinge compares.
    """

    formula: ClassVar[str] = "L = max(0, delta - log pi(chosen) + log pi(rejected)) - nll_weight * log pi(chosen), summed over tokens"
    optimum: ClassVar[str] = "log pi(chosen) - log pi(rejected) >= delta, log pi(chosen) = 0 if nll_weight > 0"

    delta: float
    """Gap in nats from which on a pair is calibrated, > 0. 1 is usual."""
    nll_weight: float
    """Weight of the likelihood of the chosen completion, >= 0: the paper's lambda. 0.1 is usual."""

    def __post_init__(self) -> None:
        check_range("loss.delta", self.delta, above=0.0, hint="It is the gap of log-probs that is asked for, in nats. Try 1.")
        check_range("loss.nll_weight", self.nll_weight, low=0.0, hint="It is the weight of -log pi(chosen). Try 0.1.")

    def __call__(self, policy: PairLogps) -> PairwiseOutput:
        hinge = F.relu(self.delta - policy.chosen + policy.rejected)  # [B] nats
        return PairwiseOutput(
            losses=hinge - self.nll_weight * policy.chosen,
            chosen_rewards=policy.chosen.detach(),
            rejected_rewards=policy.rejected.detach(),
        )
