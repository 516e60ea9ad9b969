"""The families of losses by what they read, and the mathematics that several losses share.

A loss is a frozen dataclass: hyper-parameters are its fields, checked when it is built; tensors go in, one value per token or
per pair comes out. No state, no reduction: the caller takes the mean over the global batch.

    N completion tokens   B pairs
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from alignkit.losses.outputs import PairLogps, PairRewards, PairwiseOutput, TokenLogps, TokenOutput

BETA_HINT = "It is the strength of the KL constraint: small moves far from the reference. Try 0.1."
EPSILON_HINT = "It is the chance that a label is flipped; from 0.5 on the labels say nothing. Try 0.1."


class Loss(ABC):
    """An objective. A run prints its `formula` when it starts."""

    __slots__ = ()

    formula: ClassVar[str]
    """One line of plain text; every subclass sets it."""


class TokenLoss(Loss):
    """A loss on the log-probabilities of single tokens."""

    __slots__ = ()

    @abstractmethod
    def __call__(self, policy: TokenLogps) -> TokenOutput:
        """[N] losses from [N] token log-probs."""


class PairLogpsLoss(Loss):
    """A loss on how far the policy has moved each completion of a pair away from the reference."""

    __slots__ = ()

    @abstractmethod
    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        """[B] losses and implicit rewards of the same B pairs under both models."""

    @abstractmethod
    def value_at_reference(self) -> float:
        """The loss of any pair while the policy equals the reference, in closed form: what the first update must start from."""


class PairRewardsLoss(Loss):
    """A loss on the scores that a head gives the two completions of a pair."""

    __slots__ = ()

    @abstractmethod
    def __call__(self, scores: PairRewards) -> PairwiseOutput:
        """[B] losses; the rewards are the scores themselves."""


def smoothed_logistic(margins: Tensor, epsilon: float) -> Tensor:
    """Logistic loss on a margin whose sign is wrong with chance epsilon.

        L(z) = -(1 - epsilon) log sigmoid(z) - epsilon log sigmoid(-z)
             = softplus(-z) + epsilon z                                     [...] nats, any shape

    The second form needs one transcendental and keeps its digits at any z. `softplus(-z)` is computed as `-logsigmoid(z)`:
    torch's `softplus` turns linear beyond 20, 2e-9 off in value and in gradient.
    """
    return epsilon * margins - F.logsigmoid(margins)


def log_ratios(policy: PairLogps, reference: PairLogps) -> tuple[Tensor, Tensor]:
    """log(policy / reference) of the chosen and of the rejected completions: two tensors [B], nats, summed over tokens.

    Raises:
        ValueError: if the two records do not hold the same number of pairs.
    """
    if policy.chosen.shape != reference.chosen.shape:
        raise ValueError(
            f"policy has {len(policy.chosen)} pairs, reference has {len(reference.chosen)}; must be the same pairs in the same order."
        )
    return policy.chosen - reference.chosen, policy.rejected - reference.rejected
