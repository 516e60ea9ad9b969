"""Means over pairs, whatever the cut into micro-batches, steps and devices."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import final

import torch
from torch import Tensor
from torchmetrics import Metric

from alignkit.ranks import reader, sum_over_ranks


@final
class CountedMeans(Metric):
    """Named sums and counts; `compute` divides them, so that a short last batch weighs what it holds."""

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(sync_on_compute=False)  # ours are summed in one message
        self.names = tuple(names)
        self.add_state("sums", torch.zeros(len(self.names), dtype=torch.float32), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(len(self.names), dtype=torch.float32), dist_reduce_fx="sum")

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Add the values [*] of each name, any number of them; every name of this object must be there."""
        self.sums += torch.stack([values[name].detach().to(torch.float32).sum() for name in self.names])
        self.counts += self.counts.new_tensor([values[name].numel() for name in self.names])

    def compute(self) -> dict[str, float]:
        """Mean, over all ranks, of each name that had values since the last reset."""
        sums, counts = sum_over_ranks(torch.stack([self.sums, self.counts])).tolist()
        counted = zip(self.names, sums, counts, strict=True)
        return {name: total / count for name, total, count in counted if count}

    def state(self) -> dict[str, Tensor]:
        """Sums and counts of all ranks, for a checkpoint."""
        sums, counts = sum_over_ranks(torch.stack([self.sums, self.counts]))
        return {"sums": sums, "counts": counts}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`: one rank takes it in for all."""
        for name, value in state.items():
            own: Tensor = getattr(self, name)
            own.copy_(value if reader() == 0 else torch.zeros_like(own))
