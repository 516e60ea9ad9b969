"""The reference: the frozen model that log-ratios are measured against."""

from __future__ import annotations

import copy
import hashlib

import torch
from torch import Tensor, nn

from alignkit.models.backbone import Backbone


def frozen_copy(backbone: Backbone) -> Backbone:
    """The policy as it is now, copied in memory and frozen; it runs the policy's own code in the policy's own precision."""
    return freeze(Backbone(copy.deepcopy(backbone.lm)))


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
