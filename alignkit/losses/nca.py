"""Noise contrastive alignment on pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch.nn.functional as F

from alignkit.errors import check_range
from alignkit.losses.families import BETA_HINT, PairLogpsLoss, log_ratios
from alignkit.losses.outputs import PairLogps, PairwiseOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class NCA(PairLogpsLoss):
    """Noise contrastive alignment, its form for pairs: each completion is told from a sample of the reference on its own.

        r(y) = beta log(pi(y | x) / pi_ref(y | x))
        L = -log sigmoid(r(chosen)) - (log sigmoid(-r(chosen)) + log sigmoid(-r(rejected))) / 2         per pair, nats

    The chosen reward is pulled to ln 2 from both sides, so that chosen completions do not lose likelihood as they may under DPO; the
    rejected one is pushed down without end. 2 ln 2 at policy = reference. Chen et al. 2024 (arXiv:2402.05369).
    """

    formula: ClassVar[str] = "L = -log sigmoid(r_chosen) - (log sigmoid(-r_chosen) + log sigmoid(-r_rejected)) / 2, r = beta * log(pi/ref)"
    optimum: ClassVar[str] = "none: r_rejected falls without bound, at r_chosen = log(2)"

    beta: float
    """Strength of the KL constraint, > 0."""

    def __post_init__(self) -> None:
        check_range("loss.beta", self.beta, above=0.0, hint=BETA_HINT)

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        chosen, rejected = (self.beta * log_ratio for log_ratio in log_ratios(policy, reference))  # [B] nats, rewards
        noise = F.logsigmoid(-chosen) + F.logsigmoid(-rejected)  # [B] the log-chance that both are samples of the reference
        return PairwiseOutput(
            losses=-F.logsigmoid(chosen) - noise / 2,
            chosen_rewards=chosen.detach(),
            rejected_rewards=rejected.detach(),
        )

    def value_at_reference(self) -> float:
        return 2 * math.log(2)
