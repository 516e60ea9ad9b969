"""What losses read and what they return.

    N completion tokens   B pairs   E examples   C completions   D hidden width

Records that are read check their shapes and raise their floating tensors to float32 at least, here and nowhere else: in
bfloat16 a completion's log-probability of -300 nats is known to one nat only. float64 stays float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogps:
    """Log-probabilities of single completion tokens under the policy.

    Raises:
        ValueError: if the tensor is not one-dimensional.
    """

    token_logps: Tensor
    """[N] nats."""

    def __post_init__(self) -> None:
        check_lengths("TokenLogps", token_logps=self.token_logps)
        object.__setattr__(self, "token_logps", at_least_float32(self.token_logps))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TokenOutput:
    """What a token loss returns: one value per token, for the caller to average over the global batch."""

    losses: Tensor
    """[N] nats, float32 (float64 for float64 log-probs)."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PairLogps:
    """Log-probabilities of the two completions of each pair under one model, the policy or the reference.

    Two pairs: `PairLogps(chosen=[-10, -7.5], rejected=[-12, -6], chosen_tokens=[5, 3], rejected_tokens=[6, 2])`.

    Raises:
        ValueError: if a tensor is not one-dimensional or the lengths differ.
    """

    chosen: Tensor
    """[B] nats, summed over the completion's tokens."""
    rejected: Tensor
    """[B] nats, summed over the completion's tokens."""
    chosen_tokens: Tensor
    """[B] integer or float, completion tokens in that sum, the terminator included."""
    rejected_tokens: Tensor
    """[B] integer or float, completion tokens in that sum, the terminator included."""
    margins: Tensor | None = None
    """[B] the annotator's rating gap between chosen and rejected; None where the data has no ratings."""

    def __post_init__(self) -> None:
        check_lengths(
            "PairLogps",
            chosen=self.chosen,
            rejected=self.rejected,
            chosen_tokens=self.chosen_tokens,
            rejected_tokens=self.rejected_tokens,
            **({} if self.margins is None else {"margins": self.margins}),
        )
        object.__setattr__(self, "chosen", at_least_float32(self.chosen))
        object.__setattr__(self, "rejected", at_least_float32(self.rejected))
        if self.margins is not None:
            object.__setattr__(self, "margins", at_least_float32(self.margins))

    @property
    def chosen_means(self) -> Tensor:
        """[B] nats per token of the chosen completions; 0 for one without tokens."""
        return self.chosen / self.chosen_tokens.clamp(min=1)

    @property
    def rejected_means(self) -> Tensor:
        """[B] nats per token of the rejected completions; 0 for one without tokens."""
        return self.rejected / self.rejected_tokens.clamp(min=1)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionLogps:
    """Log-probabilities of single completions under one model, whatever they are compared with.

    Raises:
        ValueError: if a tensor is not one-dimensional or the lengths differ.
    """

    logps: Tensor
    """[C] nats, summed over the completion's tokens."""
    tokens: Tensor
    """[C] integer or float, completion tokens in that sum, the terminator included."""

    def __post_init__(self) -> None:
        check_lengths("CompletionLogps", logps=self.logps, tokens=self.tokens)
        object.__setattr__(self, "logps", at_least_float32(self.logps))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Ranking:
    """Who answers what, and how well.

    Two examples, one with three completions of which the last two are tied: `Ranking(example_index=[0, 0, 0, 1, 1],
    ranks=[0, 1, 1, 0, 1], examples=2)`.

    Raises:
        ValueError: if a tensor is not one-dimensional or the lengths differ.
    """

    example_index: Tensor
    """[C] int64, the example, 0..E-1, that each completion answers; not decreasing."""
    ranks: Tensor
    """[C] int64, 0 for the best completion of an example; equal ranks are ties."""
    examples: int
    """E."""

    def __post_init__(self) -> None:
        check_lengths("Ranking", example_index=self.example_index, ranks=self.ranks)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PairRewards:
    """Scores that a head gives the two completions of each pair.

    Raises:
        ValueError: if a tensor is not one-dimensional or the lengths differ.
    """

    chosen: Tensor
    """[B] head units."""
    rejected: Tensor
    """[B] head units."""
    margins: Tensor | None = None
    """[B] head units, the annotator's rating gap between chosen and rejected; None where the data has no ratings."""

    def __post_init__(self) -> None:
        ratings = {} if self.margins is None else {"margins": self.margins}
        check_lengths("PairRewards", chosen=self.chosen, rejected=self.rejected, **ratings)
        object.__setattr__(self, "chosen", at_least_float32(self.chosen))
        object.__setattr__(self, "rejected", at_least_float32(self.rejected))
        if self.margins is not None:
            object.__setattr__(self, "margins", at_least_float32(self.margins))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CompletionOutput:
    """What a loss on single completions returns, for the caller to average over the global batch."""

    losses: Tensor
    """[C], float32 (float64 for float64 inputs)."""
    rewards: Tensor
    """[C] detached; nats for implicit rewards, head units for the scores of a head."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RankingOutput:
    """What a loss on rankings returns, for the caller to average over the global batch."""

    losses: Tensor
    """[E], float32 (float64 for float64 inputs)."""
    rewards: Tensor
    """[C] detached; nats for implicit rewards, head units for the scores of a head."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PairwiseOutput:
    """What a pair loss returns: one value per pair, for the caller to average over the global batch."""

    losses: Tensor
    """[B], float32 (float64 for float64 inputs)."""
    chosen_rewards: Tensor
    """[B] detached; nats for implicit rewards, head units for the scores of a head."""
    rejected_rewards: Tensor
    """[B] detached; the unit of `chosen_rewards`."""

    @property
    def margins(self) -> Tensor:
        """[B] chosen minus rejected reward, the unit of the rewards."""
        return self.chosen_rewards - self.rejected_rewards

    @property
    def accuracies(self) -> Tensor:
        """[B] 1 where the chosen side has the higher reward, 0 where the rejected side has, one half on a tie."""
        return (1 + self.margins.sign()) / 2


def check_lengths(record: str, **tensors: Tensor) -> None:
    """Refuse tensors that would broadcast against each other instead of pairing up."""
    shapes = {tuple(tensor.shape) for tensor in tensors.values()}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        found = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"{record} has {found}; must be one-dimensional and equally long.")


def at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
