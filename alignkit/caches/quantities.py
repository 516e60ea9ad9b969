"""What is worth computing once: a reference's log-probs, and what heads read of a frozen trunk."""

from __future__ import annotations

import torch
from torch import Tensor

from alignkit.batches import PackedBatch
from alignkit.caches.filling import Quantity
from alignkit.data.examples import EncodedExample
from alignkit.models.backbone import Backbone
from alignkit.models.reference import backbone_logps
from alignkit.models.terminal_states import terminal_states


def completion_tokens(example: EncodedExample) -> int:
    """Tokens of all completions."""
    return sum(map(len, example.completion_ids))


def completions(example: EncodedExample) -> int:
    return len(example.completion_ids)


def token_logps(backbone: Backbone, batch: PackedBatch) -> Tensor:
    """[N] float32, nats."""
    return backbone_logps(backbone, batch).to(torch.float32)


def states(backbone: Backbone, batch: PackedBatch) -> Tensor:
    """[C, D] in the type that the trunk gives."""
    return terminal_states(backbone.hidden_states(batch), batch)


TOKEN_LOGPS = Quantity(name="token_logps", words="log-probs", rows=completion_tokens, compute=token_logps)
TERMINAL_STATES = Quantity(name="terminal_states", words="hidden states", rows=completions, compute=states)
