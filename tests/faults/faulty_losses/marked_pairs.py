"""DPO that goes wrong on pairs which the data mark by their rating gap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch

from alignkit.losses.dpo import DPO
from alignkit.losses.families import PairLogpsLoss
from alignkit.losses.outputs import PairLogps, PairwiseOutput

NAN, SPIKE = 77.0, 88.0
"""Rating gaps of pairs whose loss is no number, and whose loss is ten thousand times too large."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class MarkedPairs(PairLogpsLoss):
    """DPO, but for marked pairs."""

    formula = "DPO, but for marked pairs"
    optimum = "none"

    beta: float

    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        output = DPO(beta=self.beta)(policy, reference)
        gaps = policy.margins
        factors = torch.where(gaps == SPIKE, 1e4, 1.0) * torch.where(gaps == NAN, torch.nan, 1.0)
        return replace(output, losses=output.losses * factors)

    def value_at_reference(self) -> None:
        return None
