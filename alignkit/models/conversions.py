"""Weights under autocast, converted as rarely as can be. Nothing that is computed changes by it, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from alignkit.models.backbone import Backbone

AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""What matrix products run in, by Lightning's name of a precision that has autocast."""


@contextmanager
def conversions_kept(device: str) -> Iterator[None]:
    """Keep what autocast makes of each weight that is trained until the end, when it is let go.

    Lightning's autocast keeps nothing, since weights change within it: this is for where they do not, as between two optimiser steps.
    Gradients reach the weights from every use. Whatever runs without gradient must stay outside, for its conversions have none. Without
    autocast this does nothing.
    """
    if not torch.is_autocast_enabled(device):
        yield
        return
    try:
        with torch.autocast(device, torch.get_autocast_dtype(device), cache_enabled=True):
            yield
    finally:
        torch.clear_autocast_cache()


@contextmanager
def weights_converted_once(lm: PreTrainedModel) -> Iterator[None]:
    """The same for all weights of a model that draws tokens: to convert them for each takes longer than to multiply by them."""
    # Autocast keeps conversions of weights that are trained, and of no others.
    frozen = [weight for weight in lm.parameters() if weight.is_floating_point() and not weight.requires_grad]
    if torch.is_autocast_enabled(lm.device.type):
        for weight in frozen:
            weight.requires_grad_(True)
    try:
        with conversions_kept(lm.device.type):
            yield
    finally:
        for weight in frozen:
            weight.requires_grad_(False)


def convert_for_good(backbone: Backbone, dtype: torch.dtype) -> Backbone:
    """Store the linear maps of a frozen model as autocast to `dtype` would convert them: half the memory, and nothing is left to convert.

    Embeddings and norms, which autocast leaves alone, stay as they are, and so do quantised maps and an output embedding that is tied to
    the input's.
    """
    tied = backbone.lm.get_input_embeddings().weight
    for module in backbone.lm.modules():
        if isinstance(module, nn.Linear | Conv1D) and module.weight.is_floating_point() and module.weight is not tied:
            assert not module.weight.requires_grad, "a model that is trained keeps its weights whole"
            # Not by `module.to`, which refuses parameters without values.
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
    return backbone
