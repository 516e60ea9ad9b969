"""Where a reward peaks on the way from the reference, and whether it falls afterwards. Gao et al. 2022 (arXiv:2210.10760).

d [P] is the square root of KL(policy | reference) in nats at P places along training, or of P numbers N of samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy import linalg  # type: ignore[import-untyped]
from scipy.special import xlogy  # type: ignore[import-untyped]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A form of the true reward's gain, alpha d - beta bend(d): a line that bends down."""

    words: str
    bend: Callable[[np.ndarray], np.ndarray]
    highest: Callable[[float, float], float]
    """(alpha, beta > 0) -> the d of the peak."""

    def gain(self, d: np.ndarray, alpha: float, beta: float) -> np.ndarray:
        """[P] at distances [P]."""
        gains: np.ndarray = alpha * d - beta * self.bend(d)
        return gains


TRAINED = Shape(words="d (alpha - beta ln d)", bend=lambda d: xlogy(d, d), highest=lambda alpha, beta: math.exp(alpha / beta - 1))
"""Of reinforcement learning, the paper's R_RL."""
BEST_OF_N = Shape(words="d (alpha - beta d)", bend=np.square, highest=lambda alpha, beta: alpha / (2 * beta))
"""Of best-of-N, the paper's R_bon."""


def fitted(shape: Shape, d: np.ndarray, gain: np.ndarray) -> tuple[float, float]:
    """alpha and beta by least squares over places [P]; NaN where fewer than three are away from the reference, or all at one distance."""
    away = np.isfinite(d) & np.isfinite(gain) & (d > 0)
    if away.sum() < 3 or np.ptp(d[away]) == 0:
        return math.nan, math.nan
    terms = np.stack([d[away], -shape.bend(d[away])], axis=1)
    alpha, beta = linalg.lstsq(terms, gain[away])[0]
    return float(alpha), float(beta)


def falls(gains: np.ndarray) -> np.ndarray:
    """By how much each seed fell [S] from the peak to the last place, gains [S, P].

    A peak that is chosen on the same numbers lies above the end by chance alone. Here the mean of the other seeds chooses the place, so
    that a curve that does not fall has falls of mean 0 or less. NaN of one seed.
    """
    seeds = len(gains)
    if seeds < 2:
        return np.full(seeds, math.nan)
    others = (gains.sum(0) - gains) / (seeds - 1)
    fell: np.ndarray = gains[np.arange(seeds), others.argmax(1)] - gains[:, -1]
    return fell


def at(d: np.ndarray, gain: np.ndarray, place: float) -> float:
    """The gain at one distance, on straight lines between the places [P] in order of their distance. NaN outside of them."""
    order = np.argsort(d, kind="stable")
    return float(np.interp(place, d[order], gain[order], left=math.nan, right=math.nan))
