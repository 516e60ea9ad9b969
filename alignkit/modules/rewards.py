"""The metrics of rewards: of pairs, of single labelled completions, of rankings and of ratings."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from alignkit.losses.outputs import PairwiseOutput, Ranking
from alignkit.metrics import (
    ACCURACIES,
    CHOSEN_LOGPS,
    CHOSEN_REWARDS,
    IMPLICIT_ACCURACIES,
    IMPLICIT_CHOSEN_REWARDS,
    IMPLICIT_MARGINS,
    IMPLICIT_REJECTED_REWARDS,
    MARGINS,
    RATING_ERROR,
    REJECTED_LOGPS,
    REJECTED_REWARDS,
)

REWARD_NAMES = (CHOSEN_REWARDS, REJECTED_REWARDS, MARGINS, ACCURACIES)
IMPLICIT_REWARD_NAMES = (IMPLICIT_CHOSEN_REWARDS, IMPLICIT_REJECTED_REWARDS, IMPLICIT_MARGINS, IMPLICIT_ACCURACIES)
LOGP_NAMES = (CHOSEN_LOGPS, REJECTED_LOGPS)


def reward_metrics(output: PairwiseOutput, names: tuple[str, ...]) -> Mapping[str, Tensor]:
    """Rewards, margins and accuracies [B] under four names."""
    return dict(zip(names, (output.chosen_rewards, output.rejected_rewards, output.margins, output.accuracies), strict=True))


def label_metrics(rewards: Tensor, logps: Tensor, desirable: Tensor, ranking: Ranking) -> Mapping[str, Tensor]:
    """Of completions [C]: rewards and log-probs of the desirable and of the others, margins and accuracies over the pairs of one of
    each that answer the same prompt. Any of them may be empty."""
    mine = ranking.example_index[:, None] == ranking.example_index
    better, worse = (mine & desirable[:, None] & ~desirable).nonzero(as_tuple=True)
    margins = rewards[better] - rewards[worse]
    sides = (rewards[desirable], rewards[~desirable], margins, (1 + margins.sign()) / 2)
    return dict(zip((*IMPLICIT_REWARD_NAMES, *LOGP_NAMES), (*sides, logps[desirable], logps[~desirable]), strict=True))


def ranking_metrics(rewards: Tensor, ranking: Ranking, names: tuple[str, ...]) -> Mapping[str, Tensor]:
    """Of rankings of completions [C]: rewards of all that are best and of all that are worst, margins and accuracies over all pairs of
    unequal rank that answer the same prompt."""
    mine = ranking.example_index[:, None] == ranking.example_index
    better, worse = (mine & (ranking.ranks[:, None] < ranking.ranks)).nonzero(as_tuple=True)
    margins = rewards[better] - rewards[worse]
    return dict(zip(names, (*ends_of(rewards, ranking), margins, (1 + margins.sign()) / 2), strict=True))


def ends_of(values: Tensor, ranking: Ranking) -> tuple[Tensor, Tensor]:
    """Of values [C], those of all completions that are best and of all that are worst among those of their prompt."""
    lowest = torch.zeros(ranking.examples, dtype=ranking.ranks.dtype, device=values.device)
    lowest = lowest.scatter_reduce(0, ranking.example_index, ranking.ranks, "amax", include_self=False)
    return values[ranking.ranks == 0], values[ranking.ranks == lowest[ranking.example_index]]


def rating_metrics(rewards: Tensor, ratings: Tensor, example_index: Tensor) -> Mapping[str, Tensor]:
    """Of rated completions [C] of examples: how far scores are off, margins and accuracies over all pairs of unequal rating that answer
    the same prompt."""
    mine = example_index[:, None] == example_index
    better, worse = (mine & (ratings[:, None] > ratings)).nonzero(as_tuple=True)
    margins = rewards[better] - rewards[worse]
    return {RATING_ERROR: (rewards - ratings).abs(), MARGINS: margins, ACCURACIES: (1 + margins.sign()) / 2}
