"""Log-probabilities of chosen tokens, and divergences over the vocabulary, without ever holding a matrix of tokens times vocabulary.

N tokens   D hidden width   V vocabulary   C completions
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_ELEMENTS = 2**23
"""Logits alive at a time: 8 M, 32 MB in float32, whatever the number of tokens and the vocabulary. Every chunk adds to the
gradient of the whole vocabulary matrix, so that small ones are slow."""


GRADIENT_ELEMENTS = 2**21
"""On CPUs a chunk's share of the vocabulary's gradient is made and added in blocks of so many elements: to add a bf16 matrix to a float32
one takes a float32 copy of it there."""


SOFTMAX_ELEMENTS = 2**20
"""On CPUs so many logits of a chunk are widened to float32 at a time: the product is one, and what follows goes row by row."""


class TokenScores(NamedTuple):
    """What the vocabulary says about each completion token."""

    logps: Tensor
    """[N] float32 (float64 for float64 inputs), nats."""
    top1: Tensor
    """[N] bool, True where the token is the model's first choice. Carries no gradient."""


def token_scores(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    gradient: Tensor | None = None,
    converted: Tensor | None = None,
) -> TokenScores:
    """Log-probability of each target under `softmax(hidden @ weight.T + bias)`.

    Products run in autocast's dtype where autocast is on; the softmax and all sums are float32. Forward and backward both
    work through chunks of `CHUNK_ELEMENTS` logits; the backward pass computes them again, and the gradient of `weight` is
    summed over chunks in float32, so that memory does not grow with N * V.

    Args:
        hidden: [N, D], the hidden states that predict the targets.
        weight: [V, D], the output embedding.
        bias: [V] or None.
        targets: [N] int64.
        gradient: [V, D] float32, of `weight` so far. The backward pass adds to it chunk by chunk and returns none, so that there are
            never two of these matrices. None: the gradient of `weight` is returned.
        converted: [V, D], `weight` in the products' dtype, where that is kept.
    """
    if hidden.shape[0] != targets.shape[0]:
        raise ValueError(f"{hidden.shape[0]} hidden states for {targets.shape[0]} target tokens")
    dtype = _product_dtype(hidden)
    logps, top1 = _TokenScores.apply(hidden, weight, bias, targets, dtype, gradient, converted)  # type: ignore[no-untyped-call]
    return TokenScores(logps, top1)


def token_entropies(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Entropy of `softmax(hidden @ weight.T + bias)` at each position, [N] nats. Precision and memory as in `token_scores`.

    Args:
        hidden: [N, D].
        weight: [V, D], the output embedding.
        bias: [V] or None.
    """
    entropies: Tensor = _TokenEntropies.apply(hidden, weight, bias, _product_dtype(hidden))  # type: ignore[no-untyped-call]
    return entropies


def token_divergences(
    policy_hidden: Tensor,
    policy_weight: Tensor,
    policy_bias: Tensor | None,
    reference_hidden: Tensor,
    reference_weight: Tensor,
    reference_bias: Tensor | None,
    divergence: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """A divergence [N] between the next-token distributions of two models, each `softmax(hidden @ weight.T + bias)`.

    Precision and memory as in `token_scores`: a few matrices of `CHUNK_ELEMENTS` are alive at a time, and the backward pass
    computes them again. Gradients flow to the policy alone.

    Args:
        policy_hidden: [N, D], the policy's hidden states that predict the tokens.
        policy_weight: [V, D], its output embedding.
        policy_bias: [V] or None.
        reference_hidden: [N, D'], the same of the reference.
        reference_weight: [V, D'].
        reference_bias: [V] or None.
        divergence: values [n] of log-probs [n, V] of policy and reference, each value from its own row; called once a chunk.

    Raises:
        ValueError: if the two models do not have the same tokens or the same vocabulary.
    """
    if policy_hidden.shape[0] != reference_hidden.shape[0]:
        raise ValueError(f"{policy_hidden.shape[0]} hidden states of the policy, {reference_hidden.shape[0]} of the reference")
    if policy_weight.shape[0] != reference_weight.shape[0]:
        raise ValueError(
            f"the policy's vocabulary has {policy_weight.shape[0]} rows, the reference's {reference_weight.shape[0]}; "
            "a divergence over the vocabulary needs the same one."
        )
    dtypes = _product_dtype(policy_hidden), _product_dtype(reference_hidden)
    policy = policy_hidden, policy_weight, policy_bias
    reference = reference_hidden.detach(), reference_weight.detach(), None if reference_bias is None else reference_bias.detach()
    values: Tensor = _TokenDivergences.apply(*policy, *reference, divergence, dtypes)  # type: ignore[no-untyped-call]
    return values


def chunk_rows(vocabulary: int) -> int:
    """Rows of logits that are alive at a time."""
    return max(1, CHUNK_ELEMENTS // vocabulary)


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
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        dtype: torch.dtype,
        gradient: Tensor | None,
        converted: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        states, matrix = hidden.to(dtype), weight.to(dtype) if converted is None else converted
        logps, top1 = [], []
        for part, ids in zip(*_chunks(states, targets, weight.shape[0]), strict=True):
            for rows, own in zip(*_softmax_blocks(_product(part, matrix), ids), strict=True):
                logits = _widened(rows, bias)
                top1.append(logits.gather(-1, own[:, None])[:, 0] >= logits.amax(-1))
                logps.append(logits.log_softmax(-1).gather(-1, own[:, None])[:, 0])
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.dtype, ctx.gradient, ctx.converted = dtype, gradient, converted
        ranked = torch.cat(top1)
        ctx.mark_non_differentiable(ranked)
        return torch.cat(logps), ranked

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        states, matrix = hidden.to(ctx.dtype), weight.to(ctx.dtype) if ctx.converted is None else ctx.converted
        sums = _VocabularyGradients(hidden, weight, bias, matrix, ctx.needs_input_grad[:3], ctx.gradient)
        for part, ids, grad in zip(*_chunks(states, targets, weight.shape[0], gradients[0]), strict=True):
            # d logp / d logits = onehot(target) - softmax, in place of the logits. The gradient of a bias sums it before it is rounded.
            product = _product(part, matrix)
            for rows, own, of_own in zip(*_softmax_blocks(product, ids, grad), strict=True):
                delta = _widened(rows, bias).softmax(-1).mul_(-of_own[:, None]).scatter_add_(1, own[:, None], of_own[:, None])
                sums.add_bias(delta)
                rows.copy_(delta)
            sums.add(product, part)
        return (*sums.result(), None, None, None, None)


class _TokenEntropies(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        states, matrix = hidden.to(dtype), weight.to(dtype)
        entropies = []
        for part in states.split(chunk_rows(weight.shape[0])):
            logps = _logits(part, matrix, bias).log_softmax(-1)
            entropies.append(-(logps.exp() * logps).sum(-1))
        values = torch.cat(entropies)
        ctx.save_for_backward(hidden, weight, bias, values)
        ctx.dtype = dtype
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, entropies = ctx.saved_tensors
        states, matrix = hidden.to(ctx.dtype), weight.to(ctx.dtype)
        sums = _VocabularyGradients(hidden, weight, bias, matrix, ctx.needs_input_grad[:3])
        for part, entropy, grad in zip(*_chunks(states, entropies, weight.shape[0], gradients[0]), strict=True):
            # d H / d logits = -p (log p + H)
            logps = _logits(part, matrix, bias).log_softmax(-1)
            delta = logps.exp().mul_(logps + entropy[:, None]).mul_(-grad[:, None])
            sums.add_bias(delta)
            sums.add(delta, part)
        return (*sums.result(), None)


class _TokenDivergences(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        other_hidden: Tensor,
        other_weight: Tensor,
        other_bias: Tensor | None,
        divergence: Callable[[Tensor, Tensor], Tensor],
        dtypes: tuple[torch.dtype, torch.dtype],
    ) -> Tensor:
        states, matrix = hidden.to(dtypes[0]), weight.to(dtypes[0])
        other_states, other_matrix = other_hidden.to(dtypes[1]), other_weight.to(dtypes[1])
        values = []
        for part, other_part in zip(*_chunks(states, other_states, weight.shape[0]), strict=True):
            other_logps = _logits(other_part, other_matrix, other_bias).log_softmax(-1)
            values.append(divergence(_logits(part, matrix, bias).log_softmax(-1), other_logps))
        ctx.save_for_backward(hidden, weight, bias, other_hidden, other_weight, other_bias)
        ctx.divergence, ctx.dtypes = divergence, dtypes
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, other_hidden, other_weight, other_bias = ctx.saved_tensors
        states, matrix = hidden.to(ctx.dtypes[0]), weight.to(ctx.dtypes[0])
        other_states, other_matrix = other_hidden.to(ctx.dtypes[1]), other_weight.to(ctx.dtypes[1])
        sums = _VocabularyGradients(hidden, weight, bias, matrix, ctx.needs_input_grad[:3])
        for part, other_part, grad in zip(*_chunks(states, other_states, weight.shape[0], gradients[0]), strict=True):
            other_logps = _logits(other_part, other_matrix, other_bias).log_softmax(-1)
            with torch.enable_grad():
                logits = _logits(part, matrix, bias).detach().requires_grad_()
                values = ctx.divergence(logits.log_softmax(-1), other_logps)
            (delta,) = torch.autograd.grad(values, logits, grad)
            sums.add_bias(delta)
            sums.add(delta, part)
        return (*sums.result(), None, None, None, None, None)


class _VocabularyGradients:
    """Gradients of `states @ weight.T + bias` from those of the logits, chunk by chunk; those of the weights are summed in float32."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        matrix: Tensor,
        wants: tuple[bool, bool, bool],
        gradient: Tensor | None = None,
    ) -> None:
        """`gradient`: of `weight` so far, which is then added to."""
        self.hidden, self.weight, self.bias, self.matrix = hidden, weight, bias, matrix
        self.wants_hidden, self.wants_weight, wants_bias = wants
        self.sums = torch.promote_types(torch.float32, weight.dtype)
        self.of_hidden: list[Tensor] = []
        self.of_weight, self.is_there = gradient, gradient is not None
        self.of_bias = torch.zeros(bias.shape, dtype=self.sums, device=bias.device) if bias is not None and wants_bias else None

    def add(self, delta: Tensor, part: Tensor) -> None:
        """Take in the gradient [n, V] of the logits of the states [n, D]; the parts come in the order of `hidden`."""
        delta = delta.to(self.matrix.dtype)
        if self.wants_hidden:
            self.of_hidden.append((delta @ self.matrix).to(self.hidden.dtype))
        if self.wants_weight:
            if self.of_weight is None:
                self.of_weight = torch.zeros_like(self.weight, dtype=self.sums)
            rows = max(1, GRADIENT_ELEMENTS // part.shape[1]) if part.device.type == "cpu" else delta.shape[1]
            for block, total in zip(delta.T.split(rows), self.of_weight.split(rows), strict=True):
                total += block @ part

    def add_bias(self, delta: Tensor) -> None:
        """Take in the gradient [n, V] of logits for the bias alone."""
        if self.of_bias is not None:
            self.of_bias += delta.sum(0)

    def result(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return (
            torch.cat(self.of_hidden) if self.wants_hidden else None,
            None if self.of_weight is None or self.is_there else self.of_weight.to(self.weight.dtype),
            None if self.of_bias is None or self.bias is None else self.of_bias.to(self.bias.dtype),
        )


def _product_dtype(hidden: Tensor) -> torch.dtype:
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return hidden.dtype


def _logits(states: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    return _widened(_product(states, matrix), bias)


def _product(states: Tensor, matrix: Tensor) -> Tensor:
    with torch.autocast(states.device.type, enabled=False):
        return F.linear(states, matrix)


def _widened(product: Tensor, bias: Tensor | None) -> Tensor:
    logits = product.to(torch.promote_types(torch.float32, product.dtype))
    return logits if bias is None else logits + bias.to(logits.dtype)


def _softmax_blocks(product: Tensor, *others: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    size = max(1, SOFTMAX_ELEMENTS // product.shape[1]) if product.device.type == "cpu" else max(1, product.shape[0])
    return tuple(tensor.split(size) for tensor in (product, *others))


def _chunks(states: Tensor, targets: Tensor, vocabulary: int, *others: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    size = chunk_rows(vocabulary)
    return tuple(tensor.split(size) for tensor in (states, targets, *others))
