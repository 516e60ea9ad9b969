"""Products with the vocabulary's matrix, a chunk of logits at a time, and their gradients.

n tokens of a chunk   D hidden width   V vocabulary
"""

from __future__ import annotations

from typing import final

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


def chunk_rows(vocabulary: int) -> int:
    """Rows of logits that are alive at a time."""
    return max(1, CHUNK_ELEMENTS // vocabulary)


def product_dtype(hidden: Tensor) -> torch.dtype:
    """What products with `hidden` run in: autocast's dtype where it is on, except in float64."""
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind) and hidden.dtype != torch.float64:
        return torch.get_autocast_dtype(kind)
    return hidden.dtype


def logits_of(states: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
    """[n, V] float32 (float64 for float64 inputs) of states [n, D]."""
    return widened(product_of(states, matrix), bias)


def product_of(states: Tensor, matrix: Tensor) -> Tensor:
    """[n, V] of states [n, D] in their own dtype, without the bias."""
    with torch.autocast(states.device.type, enabled=False):
        return F.linear(states, matrix)


def widened(product: Tensor, bias: Tensor | None) -> Tensor:
    """Logits [n, V] of a product, at least float32."""
    logits = product.to(torch.promote_types(torch.float32, product.dtype))
    return logits if bias is None else logits + bias.to(logits.dtype)


def softmax_blocks(product: Tensor, *others: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    """A product [n, V] and what belongs to its rows, in blocks that are widened one after the other."""
    size = max(1, SOFTMAX_ELEMENTS // product.shape[1]) if product.device.type == "cpu" else max(1, product.shape[0])
    return tuple(tensor.split(size) for tensor in (product, *others))


def chunks(states: Tensor, targets: Tensor, vocabulary: int, *others: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    """States [N, D] and what belongs to them, in chunks of `chunk_rows`."""
    size = chunk_rows(vocabulary)
    return tuple(tensor.split(size) for tensor in (states, targets, *others))


@final
class VocabularyGradients:
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
