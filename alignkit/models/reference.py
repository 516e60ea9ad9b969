"""The reference: the frozen model that log-ratios are measured against, or what it said."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Protocol, final

import torch
from torch import Tensor, nn

from alignkit.batches import PackedBatch
from alignkit.caches.values import CachedValues
from alignkit.models.backbone import Backbone


class Reference(Protocol):
    """Whoever knows the reference's log-probs."""

    def token_logps(self, batch: PackedBatch) -> Tensor:
        """Log-probs [N] of the batch's completion tokens, nats, without gradient; in the order of `target_ids`."""
        ...


@final
class LiveReference(nn.Module):
    """A frozen model in memory, run on every batch through the policy's own code and precision."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = freeze(backbone)

    @torch.no_grad()
    def token_logps(self, batch: PackedBatch) -> Tensor:
        return backbone_logps(self.backbone, batch)


@final
class CachedReference:
    """Log-probs that are computed before training, float32; no model is held from then on.

    A policy that is the reference then agrees with it up to the rounding of differently cut batches, not to the bit.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone: Backbone | None = backbone
        """The model that is to be asked; None once its log-probs are known."""
        self._values = CachedValues()

    def load(self, values: Mapping[int, Tensor]) -> None:
        """Take the log-probs of each example's completion tokens by the example's key, and let the model go."""
        self._values.load(values)
        self.backbone = None

    def token_logps(self, batch: PackedBatch) -> Tensor:
        logps = self._values.rows(batch)
        assert len(logps) == batch.completion_tokens, "cached log-probs of other completions"
        return logps


def backbone_logps(backbone: Backbone, batch: PackedBatch) -> Tensor:
    """Log-probs [N] of the batch's completion tokens under a model."""
    return backbone.token_scores(backbone.hidden_states(batch), batch).logps


def frozen_copy(backbone: Backbone) -> Backbone:
    """The policy as it is now, copied in memory and frozen; it runs the policy's own code in the policy's own precision."""
    return freeze(copy.deepcopy(backbone))


def freeze(backbone: Backbone) -> Backbone:
    """The same backbone, without gradients."""
    return backbone.requires_grad_(False).eval()


def fingerprint(module: nn.Module) -> str:
    """SHA-256 (first 16 hex digits) over names, types, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        assert isinstance(tensor, Tensor)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(dtype=torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
