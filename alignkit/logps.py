"""Log-probabilities of chosen tokens, without ever holding a matrix of tokens times vocabulary.

N tokens   D hidden width   V vocabulary   C completions
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ELEMENTS = 2**24
"""Logits alive at a time: 16 M, 64 MB in float32, whatever the number of tokens and the vocabulary. Every chunk adds to the
gradient of the whole vocabulary matrix, so that small ones are slow."""


class TokenScores(NamedTuple):
    """What the vocabulary says about each completion token."""

    logps: Tensor
    """[N] float32 (float64 for float64 inputs), nats."""
    top1: Tensor
    """[N] bool, True where the token is the model's first choice. Carries no gradient."""


def token_scores(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> TokenScores:
    """Log-probability of each target under `softmax(hidden @ weight.T + bias)`.

    Products run in autocast's dtype where autocast is on; the softmax and all sums are float32. Forward and backward both
    work through chunks of `CHUNK_ELEMENTS` logits; the backward pass computes them again, and the gradient of `weight` is
    summed over chunks in float32, so that memory does not grow with N * V.

    Args:
        hidden: [N, D], the hidden states that predict the targets.
        weight: [V, D], the output embedding.
        bias: [V] or None.
        targets: [N] int64.
    """
    if hidden.shape[0] != targets.shape[0]:
        raise ValueError(f"{hidden.shape[0]} hidden states for {targets.shape[0]} target tokens")
    dtype = hidden.dtype
    if torch.is_autocast_enabled(hidden.device.type) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(hidden.device.type)
    logps, top1 = _TokenScores.apply(hidden, weight, bias, targets, dtype)  # type: ignore[no-untyped-call]
    return TokenScores(logps, top1)


def completion_sums(token_values: Tensor, completion_index: Tensor, completions: int) -> Tensor:
    """Sum of token values [N] over each completion: [C]."""
    return token_values.new_zeros(completions).index_add(0, completion_index, token_values)


def completion_lengths(completion_index: Tensor, completions: int) -> Tensor:
    """Tokens of each completion: [C] int64."""
    return torch.bincount(completion_index, minlength=completions)


class _TokenScores(torch.autograd.Function):
    # log_softmax and softmax are one fused pass over a row; logsumexp and exp are many, and on CPUs ten times slower.
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        states, matrix = hidden.to(dtype), weight.to(dtype)
        logps, top1 = [], []
        for part, ids in zip(*_chunks(states, targets, weight.shape[0]), strict=True):
            logits = _logits(part, matrix, bias)
            top1.append(logits.gather(-1, ids[:, None])[:, 0] >= logits.amax(-1))
            logps.append(logits.log_softmax(-1).gather(-1, ids[:, None])[:, 0])
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.dtype = dtype
        ranked = torch.cat(top1)
        ctx.mark_non_differentiable(ranked)
        return torch.cat(logps), ranked

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        states, matrix = hidden.to(ctx.dtype), weight.to(ctx.dtype)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        sums = torch.promote_types(torch.float32, weight.dtype)
        grad_hidden = []
        grad_weight: Tensor | None = None
        grad_bias = torch.zeros(bias.shape, dtype=sums, device=bias.device) if bias is not None and wants_bias else None
        for part, ids, grad in zip(*_chunks(states, targets, weight.shape[0], gradients[0]), strict=True):
            # d logp / d logits = onehot(target) - softmax
            delta = _logits(part, matrix, bias).softmax(-1).mul_(-grad[:, None])
            delta.scatter_add_(1, ids[:, None], grad[:, None])
            if grad_bias is not None:
                grad_bias += delta.sum(0)
            delta = delta.to(ctx.dtype)
            if wants_hidden:
                grad_hidden.append((delta @ matrix).to(hidden.dtype))
            if wants_weight:
                product = delta.T @ part
                grad_weight = product.to(sums) if grad_weight is None else grad_weight.add_(product)
        return (
            torch.cat(grad_hidden) if wants_hidden else None,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
            None,
            None,
        )


def _logits(states: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    with torch.autocast(states.device.type, enabled=False):
        logits = F.linear(states, matrix).to(torch.promote_types(torch.float32, states.dtype))
    return logits if bias is None else logits + bias.to(logits.dtype)


def _chunks(states: Tensor, targets: Tensor, vocabulary: int, *others: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    size = max(1, CHUNK_ELEMENTS // vocabulary)
    return tuple(tensor.split(size) for tensor in (states, targets, *others))
