"""Scores of a reward model on one scale, whatever its training made of them.

    score <- gain * score + bias        so that scores of a reference policy's samples have mean 0 and variance 1

A preference loss fixes no more than differences of scores; coefficients of the KL can be compared between reward models only after
this. Ziegler et al. 2019 (arXiv:1909.08593); as in their code the variance is the population's.
"""

from __future__ import annotations

from typing import NamedTuple, final

import torch
from torch import Tensor

from alignkit.errors import UserError


@final
class Normalization(NamedTuple):
    """`gain * score + bias`."""

    gain: float
    """One over the standard deviation that was measured, > 0."""
    bias: float
    """Minus gain times the mean that was measured."""

    def __call__(self, scores: Tensor) -> Tensor:
        """Normalised scores, of the same shape."""
        return scores if self == UNCHANGED else self.gain * scores + self.bias


UNCHANGED = Normalization(gain=1.0, bias=0.0)


def normalization(scores: Tensor) -> Normalization:
    """What brings scores [M], as the head says them, to mean 0 and population variance 1; computed in float64.

    Scores 1, 2, 3, 4 give gain .8944271910 and bias -2.2360679775.

    Raises:
        UserError: when they are fewer than two, all equal, or not finite.
    """
    wide = scores.to(torch.float64)
    deviation = float(wide.std(correction=0)) if len(wide) > 1 else 0.0
    if not deviation > 0.0 or not torch.isfinite(wide).all():
        raise UserError(
            f"{len(wide)} scores with standard deviation {deviation:g} cannot be normalised: a scorer that tells samples apart is needed."
        )
    gain = 1.0 / deviation
    return Normalization(gain=gain, bias=-gain * float(wide.mean()))
