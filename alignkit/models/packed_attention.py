"""How a language model attends in packed rows: one attention function for all of them, chosen by the kind of mask it is given.

tiles    CPUs: a table of tiles, `tiled_attention`
flex     GPUs: a block mask, FlexAttention
dense    any model and device: an additive [T, T] mask a row, through the model's own attention
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from alignkit.errors import UserError
from alignkit.models.tiled_attention import tiled_attention

Attention = Literal["tiles", "flex", "dense"]
NAME = "alignkit_packed"
"""What the language model's configuration calls `packed_attention` while it is in use; never saved."""
BEYOND_THE_MASK = ("softcap", "s_aux", "position_bias")
"""Options of attention layers that change the scores themselves, which tiles do not know."""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """The attention function of a language model: tiles and block masks as given, SDPA for all else (generation, rows).

    Arguments and results are those of every attention function of transformers: query [R, H, T, D], key and value
    [R, G, T, D], output [R, T, H, D].
    """
    if isinstance(attention_mask, BlockMask):
        return flex_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    if attention_mask is None or attention_mask.dtype != torch.int64:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    beyond = [name for name in BEYOND_THE_MASK if options.get(name) is not None]
    if beyond:
        raise UserError(f"model.attention = 'tiles': this model has a {beyond[0]}, which tiles leave out. Type model.attention=dense.")
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return tiled_attention(query.to(dtype), key.to(dtype), value.to(dtype), attention_mask, scale), None


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def use_attention(lm: PreTrainedModel, wanted: str, device: str) -> Attention:
    """Have a model attend as `wanted`, one of the kinds above or `auto`: what measured fastest on the device, `cpu` or `cuda`.

    Raises:
        UserError: when the model or the device cannot.
    """
    kind = {"cpu": "tiles", "cuda": "flex"}.get(device, "dense") if wanted == "auto" else wanted
    if kind == "flex" and device == "cpu":
        raise UserError("model.attention = 'flex' on a CPU: FlexAttention aborts the process there. Type model.attention=tiles.")
    if kind == "tiles" and device != "cpu":
        raise UserError(f"model.attention = 'tiles' on {device}: it is made for CPUs. Type model.attention=flex.")
    if kind != "dense":
        before = lm.config._attn_implementation
        lm.set_attn_implementation(NAME)
        if lm.config._attn_implementation != NAME:
            if wanted != "auto":
                kind = type(lm).__name__
                raise UserError(f"model.attention = {wanted!r}: a {kind} brings its own attention. Type model.attention=dense.")
            lm.set_attn_implementation(before)
            kind = "dense"
    assert kind in get_args(Attention)
    return kind  # type: ignore[return-value]
