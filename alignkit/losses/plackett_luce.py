"""The reward model's loss on rankings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from alignkit.losses.families import RankedRewardsLoss
from alignkit.losses.outputs import Ranking, RankingOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PlackettLuce(RankedRewardsLoss):
    """Negative log-likelihood of the annotator's order under the Plackett-Luce model: best first, each the best of what is left.

        L = sum_i [ logsumexp_{j: rank_j >= rank_i} r_j - r_i ]                                 per example, nats

    over the completions of one example. Two completions are Bradley-Terry, one costs nothing; the likelihood knows rewards up to
    a shift per prompt only. Ties are Breslow's approximation for tied event times (1974): each tied completion competes with its
    whole group and with all below, so that a tied pair at margin z costs -log sigmoid(z) - log sigmoid(-z), least at z = 0. With
    ties exp(-L) is therefore no probability. As a model of preferences over completions: Rafailov et al. 2023 (arXiv:2305.18290),
    appendix A.3.
    """

    formula: ClassVar[str] = "L = sum over ranks of logsumexp(rewards not ranked above) - reward"
    optimum: ClassVar[str] = "none: gaps of reward between ranks grow without bound, those of ties go to 0"

    def __call__(self, scores: Tensor, ranking: Ranking) -> RankingOutput:
        """Raises ValueError if there is not one score for each completion of the ranking."""
        return RankingOutput(losses=order_losses(scores, ranking), rewards=scores.detach())


def order_losses(utilities: Tensor, ranking: Ranking) -> Tensor:
    """Negative log-likelihood [E] of each example's order under utilities [C], nats, float32 (float64 for float64 utilities).

    Each term is softplus(logsumexp of the rivals' utilities minus one's own), so that a completion far ahead of its rivals
    keeps its digits, and two completions are `-logsigmoid` of their gap to the bit. All completions meet in one [C, C] matrix.

    Raises:
        ValueError: if there is not one utility for each completion of the ranking.
    """
    if utilities.shape != ranking.ranks.shape:
        raise ValueError(f"{list(utilities.shape)} utilities for a ranking of {list(ranking.ranks.shape)} completions")
    values = utilities.to(torch.promote_types(utilities.dtype, torch.float32))
    same_example = ranking.example_index[:, None] == ranking.example_index
    rivals = same_example & (ranking.ranks >= ranking.ranks[:, None])  # [C, C]: row i competes with column j
    rivals &= ~torch.eye(len(values), dtype=torch.bool, device=values.device)
    # The lowest finite number: the gradient of a logsumexp of -inf alone is NaN, which only the mask would keep away.
    gaps = (values - values[:, None]).masked_fill(~rivals, torch.finfo(values.dtype).min)
    costs = -F.logsigmoid(-gaps.logsumexp(-1))
    return costs.new_zeros(ranking.examples).index_add(0, ranking.example_index, costs)
