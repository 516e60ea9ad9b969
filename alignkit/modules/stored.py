"""What an update of a policy learns from: computed once from its rollout, and never changed while it is learnt from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from alignkit.advantages import truncated_weights
from alignkit.batches import PackedBatch
from alignkit.losses.rollout_families import SampledLoss
from alignkit.losses.rollout_outputs import Advantages, RolloutTokens
from alignkit.metrics import EXPLAINED_VARIANCE, IMPORTANCE, RETURN_MEAN, VALUE_MEAN
from alignkit.modules.tally import Tally
from alignkit.rollout import Rollout
from alignkit.rollout_settings import RolloutSettings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Minibatch:
    """What one optimiser step reads."""

    batches: list[PackedBatch]
    """This rank's share."""
    data: list[PackedBatch]
    """Of the data's own completions, this rank's share; empty without `loss.ptx_coefficient`."""
    units: int
    """Tokens, or completions, of all ranks' batches: what the loss is averaged over."""
    data_tokens: int


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What an update learns from, computed once: flat [N] tensors in the order of the rollout."""

    rollout: Rollout
    advantages: Advantages
    weights: Tensor
    """[N] importance weights; 1 for samples of the policy itself."""

    def tokens(self, batch: PackedBatch) -> RolloutTokens:
        """The part that a batch reads, on its device."""
        places, device = self.rollout.places(batch), batch.target_ids.device

        def part(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[places].to(device)

        return RolloutTokens(
            logps=self.rollout.logps[places].to(device),
            reference_logps=self.rollout.reference_logps[places].to(device),
            advantages=self.advantages.advantages[places].to(device),
            returns=part(self.advantages.returns),
            values=part(self.rollout.values),
            weights=self.weights[places].to(device),
            completion_index=batch.completion_index,
            completions=batch.completions,
        )

    def everything(self) -> list[Tensor]:
        """All stored tensors, to see that nobody changes them."""
        rollout, advantages = self.rollout, self.advantages
        optional = [tensor for tensor in (rollout.values, advantages.returns) if tensor is not None]
        return [rollout.logps, rollout.reference_logps, rollout.scores, advantages.advantages, advantages.rewards, self.weights, *optional]


def store(rollout: Rollout, loss: SampledLoss, settings: RolloutSettings, *, kl_coefficient: float, tally: Tally) -> Stored:
    """Advantages and weights of an update's samples; what is worth logging of them is tallied."""
    advantages = loss.advantages(rollout.scored(), kl_coefficient)
    weights = torch.ones_like(rollout.logps)
    if settings.weighs_samples:
        weights = truncated_weights(rollout.logps - rollout.sampled_logps, settings.importance_cap)
        tally.add(IMPORTANCE, weights)
    if rollout.values is not None and advantages.returns is not None:
        tally.add(VALUE_MEAN, rollout.values)
        tally.add(RETURN_MEAN, advantages.returns)
        spread = advantages.returns.var(correction=0)
        if spread > 0:
            tally.add(EXPLAINED_VARIANCE, float(1 - (advantages.returns - rollout.values).var(correction=0) / spread))
    return Stored(rollout=rollout, advantages=advantages, weights=weights)


def as_data(batch: PackedBatch) -> PackedBatch:
    """A batch of the data's own completions with keys below zero: its examples are not those of a rollout with the same keys."""
    return replace(batch, example_keys=tuple(-1 - key for key in batch.example_keys))
