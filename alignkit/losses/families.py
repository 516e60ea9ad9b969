"""The families of losses by what they read, and the mathematics that several losses share.

A loss is a frozen dataclass: hyper-parameters are its fields, checked when it is built; tensors go in, one value per token,
pair, completion or example comes out. No state, no reduction: the caller takes the mean over the global batch.

    N completion tokens   B pairs   E examples   C completions   D hidden width
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from alignkit.advantages import KL_ESTIMATORS
from alignkit.errors import UserError, check_choice, check_range
from alignkit.losses.outputs import (
    Advantages,
    CompletionLogps,
    CompletionOutput,
    PairLogps,
    PairRewards,
    PairwiseOutput,
    PolicyTokens,
    Ranking,
    RankingOutput,
    RolloutOutput,
    RolloutTokens,
    ScoredRollout,
    TokenLogps,
    TokenOutput,
)

BETA_HINT = "It is the strength of the KL constraint: small moves far from the reference. Try 0.1."
EPSILON_HINT = "It is the chance that a label is flipped; from 0.5 on the labels say nothing. Try 0.1."
KL_HINT = "It is what a nat of KL to the reference costs: small moves far from the reference. Try 0.05."


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


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledLoss(Loss):
    """A loss on completions that the policy itself has sampled and something has scored.

    An update draws them and turns scores into `advantages` once; then the loss is called with what is stored and what the policy says
    now. The caller averages `losses` over the global count of what they are of.
    """

    reads: ClassVar[str] = "samples of the policy, scored"
    per: ClassVar[Literal["token", "completion"]]
    """What `losses` has one of."""
    needs_values: ClassVar[bool] = False
    """Whether there must be a value head."""
    needs_groups: ClassVar[bool] = False
    """Whether each prompt must have two samples or more."""
    kl_in_reward: ClassVar[bool] = True
    """Whether rewards pay for the KL to the reference; else the loss does."""
    needs_float32: ClassVar[bool] = False
    """Whether the policy improves by differences that products in bf16 would round away."""

    kl_coefficient: float
    """What a nat of KL to the reference costs, in units of the score, >= 0. 0.02 to 0.2 are usual."""

    def __post_init__(self) -> None:
        check_range("loss.kl_coefficient", self.kl_coefficient, low=0.0, hint=KL_HINT)

    @abstractmethod
    def advantages(self, rollout: ScoredRollout, kl_coefficient: float) -> Advantages:
        """What each of N tokens was worth, from C scores. `kl_coefficient` stands for the field of that name, which may adapt."""

    @abstractmethod
    def __call__(self, policy: PolicyTokens, rollout: RolloutTokens) -> RolloutOutput:
        """[U] losses of a minibatch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutLoss(SampledLoss):
    """A loss on samples that an update makes `epochs` passes over, in `minibatches` optimiser steps each, with a clip that keeps the
    policy near the one that drew them."""

    clip_range: float
    """How far the ratio of new to old policy may move from 1 and still pay, > 0. 0.2 is usual."""
    entropy_coefficient: float
    """What a nat of entropy earns, >= 0. 0 is usual."""
    ptx_coefficient: float
    """Weight of the likelihood of the data's own completions, >= 0: PPO-ptx, Ouyang et al. 2022 (arXiv:2203.02155), eq. 2."""
    epochs: int
    """Passes over the samples of an update, >= 1."""
    minibatches: int
    """Optimiser steps in a pass, >= 1."""
    stop_kl: float | None
    """An update ends once the mean `approx_kl` of a minibatch exceeds this, nats, > 0; null never ends it."""

    def __post_init__(self) -> None:
        SampledLoss.__post_init__(self)  # by name: a slotted dataclass is a second class, of which `super()` does not know
        check_range("loss.clip_range", self.clip_range, above=0.0, hint="It is how far a ratio may move from 1 and still pay. Try 0.2.")
        check_range("loss.entropy_coefficient", self.entropy_coefficient, low=0.0, hint="It is what a nat of entropy earns. Try 0.")
        check_range("loss.ptx_coefficient", self.ptx_coefficient, low=0.0, hint="It is the weight of the data's own completions. Try 0.")
        check_range("loss.epochs", self.epochs, low=1, hint="It is how often an update passes over its samples. Try 4.")
        check_range("loss.minibatches", self.minibatches, low=1, hint="It is how many steps a pass takes. Try 1.")
        if self.stop_kl is not None:
            check_range("loss.stop_kl", self.stop_kl, above=0.0, hint="Null never stops an update. Try 0.05.")

    def entropy_bonus(self, policy: PolicyTokens) -> Tensor:
        """[N] what the entropy of each token earns.

        Raises:
            ValueError: where it earns something and the policy came without entropies.
        """
        if self.entropy_coefficient == 0:
            return torch.zeros_like(policy.logps, requires_grad=False)
        if policy.entropies is None:
            raise ValueError("entropy_coefficient is not 0, so that the entropies of the policy's tokens are needed")
        return self.entropy_coefficient * policy.entropies


@dataclass(frozen=True, kw_only=True)
class RewardKLLoss(SampledLoss):
    """A loss on samples whose rewards pay for the KL to the reference, at a price that may adapt.

    Its slots are those of its subclasses, so that it may stand beside `RolloutLoss`.
    """

    __slots__ = ()

    kl_estimator: str
    """How a token's KL is estimated in its reward: `k1` as the objective asks, `k2`, `k3`; see `advantages.kl_estimates`."""
    kl_target: float | None
    """KL to the reference that `kl_coefficient` adapts to, nats per completion, > 0; null leaves the coefficient. 6 is usual."""
    kl_horizon: float
    """Samples over which `kl_coefficient` adapts, > 0. 10000 is usual."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("loss.kl_estimator", self.kl_estimator, KL_ESTIMATORS)
        check_range("loss.kl_horizon", self.kl_horizon, above=0.0, hint="It is over how many samples the price adapts. Try 10000.")
        if self.kl_target is not None:
            check_range("loss.kl_target", self.kl_target, above=0.0, hint="It is a KL in nats per completion. Try 6.")
            if self.kl_coefficient == 0:
                raise UserError(
                    f"loss.kl_target = {self.kl_target} has no effect while loss.kl_coefficient = 0: the price adapts by factors. "
                    "Try loss.kl_coefficient=0.05."
                )


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
