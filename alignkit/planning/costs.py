"""What passes cost, from two shallow models of the run's width: a layer costs so much a position, what stands around the layers so much
a completion token. Seconds that were measured, operations and kernels that were counted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from alignkit.batches import PackedBatch


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """Of a forward and a backward pass over a micro-batch."""

    layer: float
    """Of one layer, a position."""
    around: float
    """Of what stands around the layers, a completion token."""

    def of(self, layers: int, positions: float, tokens: float) -> float:
        """Passes of a model with so many layers over so many positions, which hold so many completion tokens."""
        return self.layer * layers * positions + self.around * tokens

    def of_batches(self, layers: int, batches: Iterable[PackedBatch]) -> float:
        """Passes over micro-batches."""
        every = list(batches)
        return self.of(layers, sum(batch.input_ids.numel() for batch in every), sum(batch.completion_tokens for batch in every))


def costs_of(low: tuple[int, float], high: tuple[int, float], batch: PackedBatch) -> Costs:
    """From (layers, cost of the batch) of two models."""
    layer = max(0.0, high[1] - low[1]) / max(1, high[0] - low[0])
    return Costs(layer=layer / batch.input_ids.numel(), around=max(0.0, low[1] - low[0] * layer) / batch.completion_tokens)
