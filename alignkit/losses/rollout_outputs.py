"""What losses on samples of the policy read and what they return.

    N sampled tokens   C completions   E prompts   U units

As in `outputs`, records that are read check their shapes and raise their floating tensors to float32 at least.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from alignkit.losses.outputs import at_least_float32, check_lengths


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
        check_lengths("ScoredRollout", **tokens, completion_index=self.completion_index)
        check_lengths("ScoredRollout", scores=self.scores, example_index=self.example_index)
        object.__setattr__(self, "scores", at_least_float32(self.scores))
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
        check_lengths("RolloutTokens", **tokens, completion_index=self.completion_index)

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
        check_lengths("PolicyTokens", **_raise_tokens(self, logps=self.logps, values=self.values, entropies=self.entropies))


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


def _raise_tokens(record: object, **tensors: Tensor | None) -> dict[str, Tensor]:
    """The fields of a frozen record that are there, raised to float32 at least in the record itself."""
    there = {name: at_least_float32(tensor) for name, tensor in tensors.items() if tensor is not None}
    for name, tensor in there.items():
        object.__setattr__(record, name, tensor)
    return there
