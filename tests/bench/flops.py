"""Floating point operations that a training step cannot do without: a multiplication and an addition are two.

A matrix product of a weight costs 2 operations a weight and token forward, and 4 backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSize:
    """What the operations of a decoder are counted from."""

    trunk: int
    """Parameters that every token meets: all but input, position and output embeddings."""
    head: int
    """Parameters of the output embedding, which completion tokens alone need to meet."""
    layers: int
    attention_width: int
    """Heads times the width of a head."""


def visible_pairs(prompt: int, completions: Sequence[int]) -> int:
    """Pairs (token, token that it sees) of one example whose completions share the prompt.

    A prompt of 2 with completions of 2 and 1: 1 + 2 in the prompt, 3 + 4 and 3 in the completions, 13.
    """
    own = prompt * (prompt + 1) // 2
    return own + sum(prompt * length + length * (length + 1) // 2 for length in completions)


def training_flops(size: ModelSize, examples: Sequence[tuple[int, Sequence[int]]]) -> int:
    """Operations of a forward and a backward pass over (prompt tokens, completion tokens) of each example, prompts once.

    Attention: queries times keys and weights times values are each 2 * attention_width operations a visible pair and layer
    forward, twice that backward, 12 together. Softmax, norms and activations are left out, as is usual.
    """
    tokens = sum(prompt + sum(completions) for prompt, completions in examples)
    trained = sum(sum(completions) for _, completions in examples)
    pairs = sum(visible_pairs(prompt, completions) for prompt, completions in examples)
    return 6 * size.trunk * tokens + 6 * size.head * trained + 12 * size.layers * size.attention_width * pairs
