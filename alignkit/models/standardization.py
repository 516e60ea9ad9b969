"""Mean and deviation of the states that heads read, measured before the first update."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch

from alignkit.batches import PackedBatch
from alignkit.models.adapters import adapters_off
from alignkit.models.backbone import Backbone
from alignkit.models.heads import Heads
from alignkit.models.sharding import whole_weights
from alignkit.models.terminal_states import TerminalStates, head_inputs


class Trunk(Protocol):
    """Whoever has a trunk with heads."""

    backbone: Backbone
    heads: Heads
    states: TerminalStates | None
    """What is known of the trunk's terminal states without running it."""


def most_wanted(heads: Heads) -> int:
    """Completions that a head wants to see before it is trained; 0 where none does."""
    return max((heads.head(name).settings.standardize for name in heads), default=0)


@torch.no_grad()
def standardize(model: Trunk, batches: Iterable[PackedBatch]) -> None:
    """Measure the states at the last tokens of completions, by the trunk as it is before adapters, and tell the heads that ask for it.

    Every process reads the same batches, so that all have the same numbers.
    """
    asking = [name for name in model.heads if model.heads.head(name).settings.standardize > 0]
    if not asking:
        return
    layers, read = model.heads.layers, []
    with adapters_off(model.backbone), whole_weights(model.backbone):
        for batch in batches:
            if model.states is not None:
                read.append(model.states(batch)[:, None].float().cpu())
                continue
            hidden = model.backbone.hidden_layers(batch, layers)
            read.append(head_inputs(hidden, layers, batch, with_tokens=False).terminal.float().cpu())
    states = torch.cat(read)  # [M, L, D]
    for name in asking:
        head = model.heads.head(name)
        places = [layers.index(layer) for layer in head.settings.layers]
        head.measure(states[: head.settings.standardize, places])
