"""Numbers that a loss compares rewards with and that follow the data: they are the same on every rank and outlive a restart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from alignkit.ranks import gather, reader, readers, sum_over_ranks


@final
class Level:
    """A running mean that moves once a step, on the device of what it has seen.

    Not a buffer: `precision=bf16_true` would round it to three digits.
    """

    def __init__(self, *, start: float, decay: float) -> None:
        self.decay = decay
        self._value = torch.tensor(start, dtype=torch.float64)
        self._seen: list[Tensor] = []

    def value(self, like: Tensor) -> Tensor:
        """[] in the dtype and on the device of `like`."""
        if self._value.device != like.device:
            self._value = self._value.to(like.device, dtype=torch.float32 if like.device.type == "mps" else torch.float64)
        return self._value.to(like.dtype)

    def observe(self, values: Tensor) -> None:
        """Take in values [*] of a micro-batch."""
        self._seen.append(torch.stack([values.detach().sum(), values.new_tensor(values.numel())]))

    def move(self) -> None:
        """level <- decay * level + (1 - decay) * the mean of what was observed since the last move, over all ranks."""
        if not self._seen:
            return
        total, count = sum_over_ranks(torch.stack(self._seen).sum(0).to(self._value.dtype)).unbind()
        mean = torch.where(count > 0, total / count.clamp(min=1), self._value)
        self._value = self.decay * self._value + (1 - self.decay) * mean
        self._seen = []

    def forget(self) -> None:
        """Leave out what was observed since the last move."""
        self._seen = []

    def state(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"level": float(self._value)}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._value = torch.tensor(state["level"], dtype=torch.float64)


def columns_of_all_ranks(own: Tensor) -> tuple[Tensor, slice]:
    """Columns [..., n] of all processes side by side, and which of them are this one's. Processes may have different numbers."""
    if readers() == 1:
        return own, slice(None)
    parts = gather(own.cpu())
    begin = sum(part.shape[-1] for part in parts[: reader()])
    return torch.cat([part.to(own.device) for part in parts], dim=-1), slice(begin, begin + own.shape[-1])
