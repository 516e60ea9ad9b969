"""Means over pairs, whatever the cut into micro-batches, steps and devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import final

import torch
from torch import Tensor
from torchmetrics import Metric


@final
class CountedMeans(Metric):
    """Named sums and counts; `compute` divides them, so that a short last batch weighs what it holds."""

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.add_state("sums", torch.zeros(len(self.names), dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(len(self.names), dtype=torch.float32), dist_reduce_fx="sum")

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Add the values [*] of each name, any number of them; every name of this object must be there."""
        self.sums += torch.stack([values[name].detach().to(torch.float32).sum() for name in self.names])
        self.counts += self.counts.new_tensor([values[name].numel() for name in self.names])

    def compute(self) -> dict[str, float]:
        """Mean of each name that had values since the last reset."""
        counted = zip(self.names, self.sums.tolist(), self.counts.tolist(), strict=True)
        return {name: total / count for name, total, count in counted if count}
