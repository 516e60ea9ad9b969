"""The families of losses that learn from samples of the policy, which are scored and paid for their KL to the reference.

N sampled tokens   C completions   U units
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from alignkit.advantages import KL_ESTIMATORS
from alignkit.errors import UserError, check_choice, check_range
from alignkit.losses.families import Loss
from alignkit.losses.rollout_outputs import Advantages, PolicyTokens, RolloutOutput, RolloutTokens, ScoredRollout

KL_HINT = "It is what a nat of KL to the reference costs: small moves far from the reference. Try 0.05."


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
