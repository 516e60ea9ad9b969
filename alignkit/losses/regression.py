"""Heads that predict ratings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from alignkit.losses.families import RatedRewardsLoss
from alignkit.losses.outputs import CompletionOutput


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Regression(RatedRewardsLoss):
    """Squared error of a head's score, for data that rate each completion instead of comparing two.

        L = (r - rating)^2                                                   per completion, squared rating units

    Scores come out in the annotator's units and compare across prompts. With one head for each attribute (helpfulness,
    correctness, ...) these are the reward models of HelpSteer2 (Wang et al. 2024, arXiv:2406.08673).
    """

    formula: ClassVar[str] = "L = (r - rating)^2"
    optimum: ClassVar[str] = "r = rating"

    def __call__(self, scores: Tensor, ratings: Tensor) -> CompletionOutput:
        """Raises ValueError if there is not one rating, a number, for each score: a completion without a rating has no loss, and
        one that counted as 0 would lower the mean."""
        if scores.shape != ratings.shape or scores.dim() != 1:
            raise ValueError(f"{list(scores.shape)} scores for {list(ratings.shape)} ratings; must be one-dimensional and equally long.")
        missing = int(ratings.isnan().sum())
        if missing:
            raise ValueError(f"{missing} of {len(ratings)} ratings are NaN; leave completions without a rating out.")
        wide = torch.promote_types(scores.dtype, torch.float32)
        return CompletionOutput(losses=(scores.to(wide) - ratings.to(wide)).square(), rewards=scores.detach())
