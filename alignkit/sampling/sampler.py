"""What samples are, and what they are drawn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

import torch
from torch import Tensor


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Distribution:
    """What the next token is drawn from: softmax(logits / temperature), cut to the likeliest tokens where that is asked for: first to
    `top_k`, then to `top_p` of what these have."""

    temperature: float = 1.0
    top_k: int = 0
    """0 cuts nothing."""
    top_p: float = 1.0
    """1 cuts nothing."""

    @property
    def is_whole(self) -> bool:
        """Whether every token can be drawn: only then is the log-probability of a sample the model's own."""
        return self.top_k == 0 and self.top_p == 1.0

    def log_probs(self, logits: Tensor) -> Tensor:
        """[B, V] float32 log-probabilities of logits [B, V]; -inf for tokens that are cut off."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32)) / self.temperature
        if self.is_whole:
            return logits.log_softmax(-1)
        ranked, order = logits.sort(-1, descending=True)
        if self.top_k > 0:
            ranked[..., self.top_k :] = float("-inf")
        if self.top_p < 1:
            # Of those, a token stays while the likelier ones together have less than top_p: the likeliest always does.
            probabilities = ranked.softmax(-1)
            gone = probabilities.cumsum(-1) - probabilities >= self.top_p
            gone[..., 0] = False
            ranked = ranked.masked_fill(gone, float("-inf"))
        return torch.empty_like(ranked).scatter(-1, order, ranked.log_softmax(-1))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One completion."""

    ids: tuple[int, ...]
    """At least one token; the last one is the terminator unless the completion was cut at its longest."""
    logps: tuple[float, ...]
    """One a token, nats, under what it was drawn from."""


class Sampler(Protocol):
    """Whoever answers prompts."""

    def __call__(
        self, prompts: Sequence[Sequence[int]], *, samples: int, seed: int, only: Sequence[int] | None = None
    ) -> list[list[Sample]]:
        """So many completions of each prompt, in the order of the prompts: the same for the same weights, prompts and seed.

        With `only` those of the prompts at these places, which are what they are among the answers to all.
        """
        ...


def draw(log_probs: Tensor, uniforms: Tensor) -> Tensor:
    """Tokens [B] by inversion of the distribution function, from log-probs [B, V] and numbers [B] in [0, 1).

    Every sequence has random numbers of its own, so that which others share its batch, or have ended, changes nothing.
    """
    sums = log_probs.double().exp().cumsum(-1)
    total = sums[:, -1:]
    # Below the total even where the product is rounded up to it: the last token of positive probability is the last drawn.
    target = torch.minimum(uniforms[:, None].to(total) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(sums, target, right=True)[:, 0]
