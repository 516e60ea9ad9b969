"""Weights under autocast, converted once for all tokens that are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel


@contextmanager
def weights_converted_once(lm: PreTrainedModel) -> Iterator[None]:
    """Keep what autocast makes of each weight until the end, when it is let go.

    Lightning's autocast keeps nothing, since weights change within it. While tokens are drawn they do not, and to convert them for each
    token takes longer than to multiply by them. Without autocast this does nothing.
    """
    device = lm.device.type
    if not torch.is_autocast_enabled(device):
        yield
        return
    # Autocast keeps conversions of weights that are trained, and of no others.
    frozen = [weight for weight in lm.parameters() if weight.is_floating_point() and not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    try:
        with torch.autocast(device, torch.get_autocast_dtype(device), cache_enabled=True):
            yield
    finally:
        torch.clear_autocast_cache()
        for weight in frozen:
            weight.requires_grad_(False)
