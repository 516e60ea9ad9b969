"""What heads read: the hidden state at each completion's last token, and more where they ask for it.

C completions   N completion tokens   L layers   D hidden width
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
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


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class HeadInputs:
    """What heads read of a micro-batch that want other layers than the last, or all tokens."""

    layers: tuple[int, ...]
    """The L layers of the trunk, as `Backbone.hidden_layers` counts them."""
    terminal: Tensor
    """[C, L, D] at the last token of each completion."""
    tokens: Tensor | None
    """[N, L, D] at all tokens of completions; None where no head attends to them."""
    completion_index: Tensor
    """[N] int64, the completion, 0..C-1, that each of them belongs to."""


def head_inputs(hidden: Sequence[Tensor], layers: Sequence[int], batch: PackedBatch, *, with_tokens: bool) -> HeadInputs:
    """Out of all hidden states [R * T, D] of each of `layers`, which `Backbone.hidden_layers` gives."""
    positions = completion_positions(batch) if with_tokens else None
    return HeadInputs(
        layers=tuple(layers),
        terminal=torch.stack([terminal_states(states, batch) for states in hidden], dim=1),
        tokens=None if positions is None else torch.stack([states.index_select(0, positions) for states in hidden], dim=1),
        completion_index=batch.completion_index,
    )


def completion_positions(batch: PackedBatch) -> Tensor:
    """[N] int64, the flat position in [R * T] of each completion token itself."""
    # Each token predicts the next one of its completion, but for the last.
    ends = torch.ones_like(batch.completion_index, dtype=torch.bool)
    ends[:-1] = batch.completion_index[1:] != batch.completion_index[:-1]
    return torch.where(ends, batch.terminal_index[batch.completion_index], batch.predictor_index.roll(-1))
