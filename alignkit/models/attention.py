"""Who may see whom in a packed row, and which models can be told.

A token q sees a token k iff both belong to one example, k is not after q in the row, and k is in the prompt or in q's own
completion.
"""

from __future__ import annotations

import inspect

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from alignkit.batches import PackedBatch


def visibility(batch: PackedBatch) -> Tensor:
    """[R, T, T] bool, True where the row's token q (second axis) sees token k (third axis).

    Padding sees itself only: a row of a softmax with nothing to look at would be NaN.
    """
    tokens = batch.input_ids.shape[1]
    example, branch = batch.example_ids, batch.branch_ids
    same_example = example[:, :, None] == example[:, None, :]
    same_branch = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    causal = torch.ones(tokens, tokens, dtype=torch.bool, device=example.device).tril()
    visible = same_example & same_branch & causal & (example >= 0)[:, :, None]
    return visible | torch.eye(tokens, dtype=torch.bool, device=example.device)


def additive_mask(batch: PackedBatch, dtype: torch.dtype) -> Tensor:
    """[R, 1, T, T] in the model's dtype: 0 where a token is seen, the most negative number where not.

    Never boolean: eager attention adds a boolean mask to the scores and is silently wrong.
    """
    hidden = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=batch.input_ids.device)
    return torch.where(visibility(batch), hidden.new_zeros(()), hidden)[:, None]


def why_not_packed(decoder: nn.Module, config: PretrainedConfig) -> str | None:
    """Why a model cannot take the packed mask, or None where it can.

    A user's 4-D mask silently replaces a sliding window; ALiBi and recurrent layers never look at it. What passes here is
    still compared with separate rows before the first update (the certificate).
    """
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        return f"its layers are of kind {', '.join(sorted(kinds))}"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return f"its attention has a sliding window of {config.sliding_window} tokens"
    if getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt"):
        return "it uses ALiBi positions"
    accepted = inspect.signature(decoder.forward).parameters
    missing = [name for name in ("position_ids", "attention_mask") if name not in accepted]
    if missing:
        return f"it does not take {' and '.join(missing)}"
    return None
