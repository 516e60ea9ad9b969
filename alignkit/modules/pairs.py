"""Pairs of completions out of a batch: their log-probs, their scores, and the metrics of every pair loss."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from alignkit.batches import PackedBatch
from alignkit.logps import completion_lengths, completion_sums
from alignkit.losses.outputs import PairLogps, PairRewards, PairwiseOutput
from alignkit.metrics import (
    ACCURACIES,
    CHOSEN_LOGPS,
    CHOSEN_REWARDS,
    IMPLICIT_ACCURACIES,
    IMPLICIT_CHOSEN_REWARDS,
    IMPLICIT_MARGINS,
    IMPLICIT_REJECTED_REWARDS,
    MARGINS,
    REJECTED_LOGPS,
    REJECTED_REWARDS,
)

REWARD_NAMES = (CHOSEN_REWARDS, REJECTED_REWARDS, MARGINS, ACCURACIES)
IMPLICIT_REWARD_NAMES = (IMPLICIT_CHOSEN_REWARDS, IMPLICIT_REJECTED_REWARDS, IMPLICIT_MARGINS, IMPLICIT_ACCURACIES)
LOGP_NAMES = (CHOSEN_LOGPS, REJECTED_LOGPS)


def pair_logps(token_logps: Tensor, batch: PackedBatch) -> PairLogps:
    """Summed log-probs of both sides of each pair, from those [N] of the batch's completion tokens."""
    logps = completion_sums(token_logps, batch.completion_index, batch.completions).view(-1, 2)
    tokens = completion_lengths(batch.completion_index, batch.completions).view(-1, 2)
    return PairLogps(chosen=logps[:, 0], rejected=logps[:, 1], chosen_tokens=tokens[:, 0], rejected_tokens=tokens[:, 1])


def pair_rewards(scores: Tensor, batch: PackedBatch) -> PairRewards:
    """Head scores [C] as both sides of each pair, with the data's rating gaps."""
    sides = scores.view(-1, 2)
    return PairRewards(chosen=sides[:, 0], rejected=sides[:, 1], margins=scores.new_tensor(batch.margins))


def reward_metrics(output: PairwiseOutput, names: tuple[str, ...] = REWARD_NAMES) -> Mapping[str, Tensor]:
    """Rewards, margins and accuracies [B] under four names."""
    return dict(zip(names, (output.chosen_rewards, output.rejected_rewards, output.margins, output.accuracies), strict=True))


def logp_metrics(policy: PairLogps) -> Mapping[str, Tensor]:
    """The policy's summed log-probs [B]."""
    return {CHOSEN_LOGPS: policy.chosen.detach(), REJECTED_LOGPS: policy.rejected.detach()}
