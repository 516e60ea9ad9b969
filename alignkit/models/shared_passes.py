"""The reference of a run on samples, which a scorer may read too."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias, final

import torch
from torch import Tensor

from alignkit.batches import PackedBatch
from alignkit.models.reference import AdapterOffReference, LiveReference, MovingReference

Asked: TypeAlias = LiveReference | AdapterOffReference | MovingReference
"""References that can be asked about samples, which nobody has seen before."""


@final
class SharedPasses:
    """Runs the reference once where a head reads a batch and its log-probs are wanted afterwards.

    A head of the reference's own weights scores samples in the batches in which they are read: what it is given says the log-probs, too.
    They alone are kept, from one scoring to the reading that follows it.
    """

    def __init__(self, reference: Asked, *, temperature: float) -> None:
        self.reference = reference
        self.temperature = temperature
        """Log-probs are those of softmax(logits / temperature)."""
        self._said: list[tuple[PackedBatch, Tensor]] = []
        self._is_read = False

    @torch.no_grad()
    def hidden_layers(self, batch: PackedBatch, layers: Sequence[int]) -> list[Tensor]:
        """[R * T, D] of each of `layers`: see `Backbone.hidden_layers`."""
        assert not isinstance(self.reference, MovingReference), "a scorer reads what stands still"
        if self._is_read:
            self._said, self._is_read = [], False
        states = self.reference.hidden_layers(batch, layers)
        if set(layers) == {-1}:
            self._said.append((batch, self._logps(states[0], batch)))
        return states

    @torch.no_grad()
    def token_logps(self, batch: PackedBatch) -> Tensor:
        """Log-probs [N] of the batch's completion tokens, nats."""
        self._is_read = True
        for known, logps in self._said:
            if is_same(known, batch):
                return logps
        return self._logps(self.reference.hidden_states(batch)[1], batch)

    def _logps(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        return self.reference.backbone.token_scores(hidden, batch, temperature=self.temperature).logps


def is_same(left: PackedBatch, right: PackedBatch) -> bool:
    """Whether two batches hold the same tokens in the same places; whose they are does not matter."""
    if left.layout != right.layout or left.input_ids.shape != right.input_ids.shape:
        return False
    fields = [field.name for field in dataclasses.fields(PackedBatch) if isinstance(getattr(left, field.name), Tensor)]
    return all(torch.equal(getattr(left, name), getattr(right, name)) for name in fields)
