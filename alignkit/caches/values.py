"""Values of examples that were computed before training, looked up by the keys of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from alignkit.batches import PackedBatch


@final
class CachedValues:
    """What a frozen model says of each example: rows for its completions, in the order in which a batch lays them.

    Not a module: values are no weights, and stay out of checkpoints and of bf16's rounding. `load` brings them, once they are
    known; before that there is nothing to look up.
    """

    def __init__(self) -> None:
        self._values: Mapping[int, Tensor] = {}

    def load(self, values: Mapping[int, Tensor]) -> None:
        """Take the rows [n, ...] of each example, by the example's key."""
        self._values = values

    def rows(self, batch: PackedBatch) -> Tensor:
        """The rows of the batch's examples, one example after the other, on the batch's device."""
        some = next(iter(self._values.values()))[:0]  # a batch may hold no example
        rows = torch.cat([some, *(self._values[key] for key in batch.example_keys)])
        device = batch.target_ids.device
        if device.type == "cuda":
            rows = rows.pin_memory()  # else the copy would wait for the device
        return rows.to(device, non_blocking=True)
