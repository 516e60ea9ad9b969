"""What heads read: the hidden state at each completion's last token.   C completions   D hidden width"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, final

from torch import Tensor

from alignkit.batches import PackedBatch
from alignkit.caches.values import CachedValues
from alignkit.models.backbone import Backbone


class TerminalStates(Protocol):
    """Whoever knows the trunk's terminal states."""

    def __call__(self, batch: PackedBatch) -> Tensor:
        """[C, D], after the final norm."""
        ...


@final
class TrunkStates:
    """Runs the trunk on every batch."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def __call__(self, batch: PackedBatch) -> Tensor:
        return terminal_states(self._backbone.hidden_states(batch), batch)


@final
class CachedStates:
    """States of a frozen trunk that are computed before training; the trunk is not run from then on."""

    def __init__(self) -> None:
        self._values = CachedValues()

    def load(self, values: Mapping[int, Tensor]) -> None:
        """Take the states [K, D] of each example's completions by the example's key."""
        self._values.load(values)

    def __call__(self, batch: PackedBatch) -> Tensor:
        states = self._values.rows(batch)
        assert len(states) == batch.completions, "cached states of other completions"
        return states


def terminal_states(hidden: Tensor, batch: PackedBatch) -> Tensor:
    """[C, D] out of all hidden states [R * T, D] of a batch."""
    return hidden.index_select(0, batch.terminal_index)
