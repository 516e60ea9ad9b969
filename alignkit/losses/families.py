"""The families of losses by what they read, and the mathematics that several losses share.

A loss is a frozen dataclass: hyper-parameters are its fields, checked when it is built; tensors go in, one value per token,
pair, completion or example comes out. No state, no reduction: the caller takes the mean over the global batch.

    N completion tokens   B pairs   E examples   C completions   D hidden width
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from alignkit.losses.outputs import (
    CompletionLogps,
    CompletionOutput,
    PairLogps,
    PairRewards,
    PairwiseOutput,
    Ranking,
    RankingOutput,
    TokenLogps,
    TokenOutput,
)

BETA_HINT = "It is the strength of the KL constraint: small moves far from the reference. Try 0.1."
EPSILON_HINT = "It is the chance that a label is flipped; from 0.5 on the labels say nothing. Try 0.1."


class Loss(ABC):
    """An objective. A run prints its `formula` when it starts."""

    __slots__ = ()

    formula: ClassVar[str]
    """One line of plain text; every subclass sets it."""
    optimum: ClassVar[str]
    """What the loss pulls to, one short line of plain text in the symbols of its formula: an equation, and after a comma what it leaves
    out, or "none: " and what goes on without end. Every subclass sets it."""
    reads: ClassVar[str]
    """What it takes from the data and the models, in a few words; every family sets it."""


class TokenLoss(Loss):
    """A loss on the log-probabilities of single tokens."""

    __slots__ = ()

    reads: ClassVar[str] = "token log-probs of single completions"

    @abstractmethod
    def __call__(self, policy: TokenLogps) -> TokenOutput:
        """[N] losses from [N] token log-probs."""


class PairLogpsLoss(Loss):
    """A loss on how far the policy has moved each completion of a pair away from the reference."""

    __slots__ = ()

    reads: ClassVar[str] = "log-probs of pairs"

    @abstractmethod
    def __call__(self, policy: PairLogps, reference: PairLogps) -> PairwiseOutput:
        """[B] losses and implicit rewards of the same B pairs under both models."""

    def value_at_reference(self) -> float | None:
        """The loss of any pair while the policy equals the reference, in closed form: what the first update must start from. None
        where it depends on the pair."""
        return None


class ReferenceFreeLoss(Loss):
    """A loss on what the policy alone says of the two completions of a pair."""

    __slots__ = ()

    reads: ClassVar[str] = "log-probs of pairs"

    @abstractmethod
    def __call__(self, policy: PairLogps) -> PairwiseOutput:
        """[B] losses and implicit rewards."""


class AdaptivePairLoss(Loss):
    """A loss on log-ratios of pairs with one number, the level, that follows the data from step to step.

    The caller holds it: it begins at `start`, and after each step moves to `decay` * level + (1 - `decay`) * the mean of `observe`.
    """

    __slots__ = ()

    reads: ClassVar[str] = "log-probs of pairs, a level that follows them"

    start: float
    decay: float

    @abstractmethod
    def __call__(self, policy: PairLogps, reference: PairLogps, level: Tensor) -> PairwiseOutput:
        """[B] losses and implicit rewards of the same B pairs under both models, at a level []."""

    @abstractmethod
    def observe(self, output: PairwiseOutput, level: Tensor) -> Tensor:
        """[B] detached: the values whose mean the level follows."""

    def value_at_reference(self) -> float | None:
        """As `PairLogpsLoss.value_at_reference`, at the first level."""
        return None


class SortedPairLoss(Loss):
    """A loss on the sorted log-ratios of a whole batch: each chosen completion meets the rejected one of its own rank."""

    __slots__ = ()

    reads: ClassVar[str] = "log-probs of pairs, sorted over the batch"

    @abstractmethod
    def __call__(self, policy: PairLogps, reference: PairLogps, partners: tuple[Tensor, Tensor]) -> PairwiseOutput:
        """[B] losses and implicit rewards. `partners`: for each chosen completion the rejected log-ratio [B] of its rank in the global
        batch, and for each rejected one the chosen log-ratio [B]; without gradient."""

    def value_at_reference(self) -> float | None:
        """As `PairLogpsLoss.value_at_reference`."""
        return None


class LabelledLoss(Loss):
    """A loss on single completions that are desirable or not, against a level that implicit rewards are compared with."""

    __slots__ = ()

    reads: ClassVar[str] = "log-probs of labelled completions"

    @abstractmethod
    def __call__(self, policy: CompletionLogps, reference: CompletionLogps, desirable: Tensor, level: Tensor) -> CompletionOutput:
        """[C] losses and implicit rewards of the same C completions under both models; `desirable` [C] bool, `level` []."""


class MismatchLevelLoss(LabelledLoss):
    """The level comes from completions under prompts that they do not answer, in the same global batch."""

    __slots__ = ()

    reads: ClassVar[str] = "log-probs of labelled completions and of mismatched ones"

    @abstractmethod
    def level(self, log_ratios: Tensor) -> Tensor:
        """[] without gradient, from the log-ratios [*] of all mismatched completions of the global batch."""


class RunningLevelLoss(LabelledLoss):
    """The level is the midpoint of two running means of the rewards, of desirable and of other completions.

    The caller holds them: they begin at 0, and after each step move to `decay` * mean + (1 - `decay`) * the mean over the step.
    """

    __slots__ = ()

    decay: float


class PairRewardsLoss(Loss):
    """A loss on the scores that a head gives the two completions of a pair."""

    __slots__ = ()

    reads: ClassVar[str] = "head scores of pairs"

    @abstractmethod
    def __call__(self, scores: PairRewards) -> PairwiseOutput:
        """[B] losses; the rewards are the scores themselves."""


class RankedRewardsLoss(Loss):
    """A loss on the scores that a head gives all completions of a ranking."""

    __slots__ = ()

    reads: ClassVar[str] = "head scores of rankings"

    @abstractmethod
    def __call__(self, scores: Tensor, ranking: Ranking) -> RankingOutput:
        """[E] losses from scores [C]; the rewards are the scores themselves."""


class RankedLogpsLoss(Loss):
    """A loss on how far the policy has moved each completion of a ranking away from the reference."""

    __slots__ = ()

    reads: ClassVar[str] = "log-probs of rankings"

    @abstractmethod
    def __call__(self, policy: CompletionLogps, reference: CompletionLogps, ranking: Ranking) -> RankingOutput:
        """[E] losses and implicit rewards of the same C completions under both models."""


class RatedRewardsLoss(Loss):
    """A loss on how close a head's scores are to ratings on a scale."""

    __slots__ = ()

    reads: ClassVar[str] = "head scores of rated completions"

    @abstractmethod
    def __call__(self, scores: Tensor, ratings: Tensor) -> CompletionOutput:
        """[C] losses from scores [C] and ratings [C]; the rewards are the scores themselves."""


class DivergenceLoss(Loss):
    """A divergence between policy and reference over the whole vocabulary, at every completion token."""

    __slots__ = ()

    reads: ClassVar[str] = "token distributions of single completions"

    @abstractmethod
    def __call__(self, policy: Tensor, reference: Tensor) -> Tensor:
        """[N] nats from log-probabilities [N, V] of both, which are normalised over the last dimension."""


class StatesLoss(Loss):
    """A loss on the hidden states where prompts and completions end."""

    __slots__ = ()

    reads: ClassVar[str] = "hidden states of prompts and completions"

    @abstractmethod
    def __call__(self, prompts: Tensor, completions: Tensor, ranking: Ranking) -> Tensor:
        """[E] losses from the states [E, D] of prompts and [C, D] of completions."""


class WeightsLoss(Loss):
    """A loss on the weight matrices of a head alone."""

    __slots__ = ()

    reads: ClassVar[str] = "weight matrices of a head"

    @abstractmethod
    def __call__(self, matrices: tuple[Tensor, ...]) -> Tensor:
        """[] from matrices [out, in]."""


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
