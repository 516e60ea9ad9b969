"""Keys and values of sequences that grow token by token, without copying what is there at each token."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer


@final
class RoomyLayer(DynamicLayer):
    """A cache layer that is made with room for the tokens to come.

    transformers' own grows by `torch.cat`: every token copies all keys and values, which with a few hundred sequences costs as
    much as the weights that the token reads.
    """

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._room = room
        """Positions that will be needed after the first call."""
        self._key_buffer: Tensor | None = None
        self._value_buffer: Tensor | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new positions behind the old ones; [B, G, T, D] of all that are there."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old, new = self.get_seq_length(), key_states.shape[-2]
        if self._key_buffer is None or self._value_buffer is None:
            shape = (*key_states.shape[:-2], old + new + self._room)
            self._key_buffer = key_states.new_empty(*shape, key_states.shape[-1])
            self._value_buffer = value_states.new_empty(*shape, value_states.shape[-1])
        if old + new > self._key_buffer.shape[-2]:
            raise ValueError(f"room for {self._key_buffer.shape[-2]} positions, asked for {old + new}")
        self._key_buffer[..., old : old + new, :] = key_states
        self._value_buffer[..., old : old + new, :] = value_states
        return self._show(old + new)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each sequence `repeats` times."""
        if self._key_buffer is not None:
            self.batch_select_indices(torch.arange(len(self._key_buffer), device=self._key_buffer.device).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Those sequences alone, in this order."""
        length = self.get_seq_length()
        for name in ("_key_buffer", "_value_buffer"):
            old = getattr(self, name)
            if old is None:
                return
            buffer = old.new_empty(len(indices), *old.shape[1:])
            buffer[..., :length, :] = old[..., :length, :].index_select(0, indices)
            setattr(self, name, buffer)
        self._show(length)

    def _show(self, length: int) -> tuple[Tensor, Tensor]:
        assert self._key_buffer is not None
        assert self._value_buffer is not None
        self.keys, self.values = self._key_buffer[..., :length, :], self._value_buffer[..., :length, :]
        return self.keys, self.values


def growing_cache(config: PretrainedConfig, room: int) -> DynamicCache:
    """An empty cache for a model, with room for so many tokens after the prompts; layers that forget (sliding windows) are transformers'
    own."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
