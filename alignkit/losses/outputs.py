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
        _check_lengths("TokenLogps", token_logps=self.token_logps)
        object.__setattr__(self, "token_logps", _at_least_float32(self.token_logps))


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
        _check_lengths(
            "PairLogps",
            chosen=self.chosen,
            rejected=self.rejected,
            chosen_tokens=self.chosen_tokens,
            rejected_tokens=self.rejected_tokens,
            **({} if self.margins is None else {"margins": self.margins}),
        )
        object.__setattr__(self, "chosen", _at_least_float32(self.chosen))
        object.__setattr__(self, "rejected", _at_least_float32(self.rejected))
        if self.margins is not None:
            object.__setattr__(self, "margins", _at_least_float32(self.margins))

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
        _check_lengths("CompletionLogps", logps=self.logps, tokens=self.tokens)
        object.__setattr__(self, "logps", _at_least_float32(self.logps))


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
        _check_lengths("Ranking", example_index=self.example_index, ranks=self.ranks)


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
        _check_lengths("PairRewards", chosen=self.chosen, rejected=self.rejected, **ratings)
        object.__setattr__(self, "chosen", _at_least_float32(self.chosen))
        object.__setattr__(self, "rejected", _at_least_float32(self.rejected))
        if self.margins is not None:
            object.__setattr__(self, "margins", _at_least_float32(self.margins))


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


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredRollout:
    """Samples of the policy with what was known of them when they were drawn; nothing of it is computed again.

    Two samples of one prompt, of three tokens and of one: `ScoredRollout(logps=[-1, -2, -0.5, -3], reference_logps=[-1.2, -1.5,
    -0.6, -3], values=None, scores=[0.8, -1], completion_index=[0, 0, 0, 1], example_index=[0, 0])`.

    Raises:
        ValueError: if a tensor is not one-dimensional, the lengths differ, or a completion has no token.
    """

    logps: Tensor
    """[N] nats, of the sampled tokens under the policy that drew them."""
    reference_logps: Tensor
    """[N] nats, under the reference."""
    values: Tensor | None
    """[N] score units, what the value head expected before each token; None without one."""
    scores: Tensor
    """[C] of whole completions."""
    completion_index: Tensor
    """[N] int64, the completion, 0..C-1, that owns the token; not decreasing, and each has a token."""
    example_index: Tensor
    """[C] int64, the prompt that each completion answers; not decreasing."""

    def __post_init__(self) -> None:
        tokens = _raise_tokens(self, logps=self.logps, reference_logps=self.reference_logps, values=self.values)
        _check_lengths("ScoredRollout", **tokens, completion_index=self.completion_index)
        _check_lengths("ScoredRollout", scores=self.scores, example_index=self.example_index)
        object.__setattr__(self, "scores", _at_least_float32(self.scores))
        lengths = torch.bincount(self.completion_index, minlength=len(self.scores))
        if len(lengths) != len(self.scores) or not lengths.all():
            raise ValueError(f"ScoredRollout has {len(self.scores)} scores for completions of {lengths.tolist()} tokens; each needs one.")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Advantages:
    """What a loss on samples makes of their scores, once an update; without gradient."""

    advantages: Tensor
    """[N] how much better than expected each token was."""
    returns: Tensor | None
    """[N] score units, what the value head is to learn; None without one."""
    rewards: Tensor
    """[N] score units, of single tokens, before any whitening: over a completion they add up to its `objective/rlhf_reward`."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutTokens:
    """The stored side of a minibatch of samples: all of it from the time when they were drawn.

    Raises:
        ValueError: if a tensor is not one-dimensional or the lengths differ.
    """

    logps: Tensor
    """[N] nats, under the policy at the start of the update, which ratios compare with."""
    reference_logps: Tensor
    """[N] nats, under the reference."""
    advantages: Tensor
    """[N]."""
    returns: Tensor | None
    """[N] score units; None without a value head."""
    values: Tensor | None
    """[N] score units, what the value head said then; None without one."""
    weights: Tensor
    """[N] importance weights of tokens that another policy drew; all 1 on-policy."""
    completion_index: Tensor
    """[N] int64, the completion, 0..C-1, that owns the token; not decreasing."""
    completions: int
    """C, of this minibatch."""

    def __post_init__(self) -> None:
        needed = {"logps": self.logps, "reference_logps": self.reference_logps, "advantages": self.advantages, "weights": self.weights}
        tokens = _raise_tokens(self, **needed, returns=self.returns, values=self.values)
        _check_lengths("RolloutTokens", **tokens, completion_index=self.completion_index)

    def log_ratios(self, policy: PolicyTokens) -> Tensor:
        """[N] nats, log of new over old policy, with gradient.

        Raises:
            ValueError: if the policy speaks of another number of tokens.
        """
        if policy.logps.shape != self.logps.shape:
            raise ValueError(f"policy has {len(policy.logps)} tokens, the rollout has {len(self.logps)}; must be the same tokens.")
        return policy.logps - self.logps


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyTokens:
    """What the policy says of the tokens of a minibatch now, with gradient.

    Raises:
        ValueError: if a tensor is not one-dimensional or the lengths differ.
    """

    logps: Tensor
    """[N] nats, of the sampled tokens."""
    values: Tensor | None = None
    """[N] score units, of the value head; None without one."""
    entropies: Tensor | None = None
    """[N] nats, of the distributions that the tokens were drawn from; None where nothing asks for them."""

    def __post_init__(self) -> None:
        _check_lengths("PolicyTokens", **_raise_tokens(self, logps=self.logps, values=self.values, entropies=self.entropies))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutOutput:
    """What a loss on samples returns: one value per unit, for the caller to average over the global batch; N tokens, U units, which
    are tokens or completions, as the loss's `per` says. All but the losses are detached."""

    losses: Tensor
    """[U], float32 (float64 for float64 inputs), with gradient."""
    policy_losses: Tensor
    """[U] the clipped surrogate alone."""
    value_losses: Tensor | None
    """[N] squared score units, halved and not yet weighted; None without a value head."""
    entropies: Tensor | None
    """[N] nats; None where the policy came without them."""
    ratios: Tensor
    """[N] new over old policy, as the surrogate uses it; a ratio of whole completions stands at each of their tokens."""
    clipped: Tensor
    """[N] 1 where clipping raises the surrogate's loss, so that the token has no gradient, else 0."""
    value_clipped: Tensor | None
    """[N] 1 where clipping raises the value loss, else 0; None without a value head."""
    approx_kl: Tensor
    """[N] nats, (new - old)^2 / 2 of the log-probs: what is left of KL(old | new) for small steps."""


def _check_lengths(record: str, **tensors: Tensor) -> None:
    """Refuse tensors that would broadcast against each other instead of pairing up."""
    shapes = {tuple(tensor.shape) for tensor in tensors.values()}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        found = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"{record} has {found}; must be one-dimensional and equally long.")


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _raise_tokens(record: object, **tensors: Tensor | None) -> dict[str, Tensor]:
    """The fields of a frozen record that are there, raised to float32 at least in the record itself."""
    there = {name: _at_least_float32(tensor) for name, tensor in tensors.items() if tensor is not None}
    for name, tensor in there.items():
        object.__setattr__(record, name, tensor)
    return there
