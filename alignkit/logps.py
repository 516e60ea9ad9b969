"""Log-probabilities of chosen tokens, and divergences over the vocabulary, without ever holding a matrix of tokens times vocabulary.

N tokens   D hidden width   V vocabulary   C completions
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alignkit.vocabulary import VocabularyGradients, chunk_rows, chunks, logits_of, product_dtype, product_of, softmax_blocks, widened


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
    dtype = product_dtype(hidden)
    logps, top1 = _TokenScores.apply(hidden, weight, bias, targets, dtype, gradient, converted)  # type: ignore[no-untyped-call]
    return TokenScores(logps, top1)


def token_entropies(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Entropy of `softmax(hidden @ weight.T + bias)` at each position, [N] nats. Precision and memory as in `token_scores`.

    Args:
        hidden: [N, D].
        weight: [V, D], the output embedding.
        bias: [V] or None.
    """
    entropies: Tensor = _TokenEntropies.apply(hidden, weight, bias, product_dtype(hidden))  # type: ignore[no-untyped-call]
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
    dtypes = product_dtype(policy_hidden), product_dtype(reference_hidden)
    policy = policy_hidden, policy_weight, policy_bias
    reference = reference_hidden.detach(), reference_weight.detach(), None if reference_bias is None else reference_bias.detach()
    values: Tensor = _TokenDivergences.apply(*policy, *reference, divergence, dtypes)  # type: ignore[no-untyped-call]
    return values


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
        for part, ids in zip(*chunks(states, targets, weight.shape[0]), strict=True):
            for rows, own in zip(*softmax_blocks(product_of(part, matrix), ids), strict=True):
                logits = widened(rows, bias)
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
        sums = VocabularyGradients(hidden, weight, bias, matrix, ctx.needs_input_grad[:3], ctx.gradient)
        for part, ids, grad in zip(*chunks(states, targets, weight.shape[0], gradients[0]), strict=True):
            # d logp / d logits = onehot(target) - softmax, in place of the logits. The gradient of a bias sums it before it is rounded.
            product = product_of(part, matrix)
            for rows, own, of_own in zip(*softmax_blocks(product, ids, grad), strict=True):
                delta = widened(rows, bias).softmax(-1).mul_(-of_own[:, None]).scatter_add_(1, own[:, None], of_own[:, None])
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
            logps = logits_of(part, matrix, bias).log_softmax(-1)
            entropies.append(-(logps.exp() * logps).sum(-1))
        values = torch.cat(entropies)
        ctx.save_for_backward(hidden, weight, bias, values)
        ctx.dtype = dtype
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, entropies = ctx.saved_tensors
        states, matrix = hidden.to(ctx.dtype), weight.to(ctx.dtype)
        sums = VocabularyGradients(hidden, weight, bias, matrix, ctx.needs_input_grad[:3])
        for part, entropy, grad in zip(*chunks(states, entropies, weight.shape[0], gradients[0]), strict=True):
            # d H / d logits = -p (log p + H)
            logps = logits_of(part, matrix, bias).log_softmax(-1)
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
        for part, other_part in zip(*chunks(states, other_states, weight.shape[0]), strict=True):
            other_logps = logits_of(other_part, other_matrix, other_bias).log_softmax(-1)
            values.append(divergence(logits_of(part, matrix, bias).log_softmax(-1), other_logps))
        ctx.save_for_backward(hidden, weight, bias, other_hidden, other_weight, other_bias)
        ctx.divergence, ctx.dtypes = divergence, dtypes
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, other_hidden, other_weight, other_bias = ctx.saved_tensors
        states, matrix = hidden.to(ctx.dtypes[0]), weight.to(ctx.dtypes[0])
        other_states, other_matrix = other_hidden.to(ctx.dtypes[1]), other_weight.to(ctx.dtypes[1])
        sums = VocabularyGradients(hidden, weight, bias, matrix, ctx.needs_input_grad[:3])
        for part, other_part, grad in zip(*chunks(states, other_states, weight.shape[0], gradients[0]), strict=True):
            other_logps = logits_of(other_part, other_matrix, other_bias).log_softmax(-1)
            with torch.enable_grad():
                logits = logits_of(part, matrix, bias).detach().requires_grad_()
                values = ctx.divergence(logits.log_softmax(-1), other_logps)
            (delta,) = torch.autograd.grad(values, logits, grad)
            sums.add_bias(delta)
            sums.add(delta, part)
        return (*sums.result(), None, None, None, None, None)
