"""How sure a number is that was measured on some questions: 95 % intervals.

Questions are what is drawn anew. Proportions have Wilson's interval; everything else has a BCa bootstrap; a weighted mean of what was
measured on different questions is put together from its parts' intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.special import ndtr, ndtri  # type: ignore[import-untyped]

from alignkit.evaluation.grading import Floats
from alignkit.evaluation.statistics import Statistic, plain

LEVEL = 0.95
"""The share of repetitions whose interval holds the true value."""
Z = float(ndtri((1 + LEVEL) / 2))
ROOM = 2_000_000
"""Weights held at a time: 16 MB."""
BLOCKS = 200
"""At most so many values are left out in turn for the acceleration: above it, blocks of questions are."""
SAME = 1e-12
"""Values that differ by less differ by rounding."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    """NaN where it is undefined."""
    low: float
    """NaN, like `high`, where the questions do not tell: none or one of them, or all resamples say the same."""
    high: float
    left_out: int = 0
    """Bootstrap samples without a value."""

    @property
    def is_known(self) -> bool:
        """Whether there are bounds."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def to_json(self) -> dict[str, float | int | None]:
        """By field; null for NaN."""
        bounds = {"value": self.value, "low": self.low, "high": self.high}
        return {**{name: None if math.isnan(number) else number for name, number in bounds.items()}, "left_out": self.left_out}


def unknown(value: float = math.nan, left_out: int = 0) -> Interval:
    """A value without bounds."""
    return Interval(value=value, low=math.nan, high=math.nan, left_out=left_out)


def wilson(total: float, count: int) -> Interval:
    """Of a proportion: `total` credits, each in [0, 1], of `count` questions.

        (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Wilson 1927. Where credits are parts of 1, it is too wide rather than too narrow: nothing in [0, 1] spreads more about p than 0 and 1
    do. NaN of no questions.
    """
    if count == 0:
        return unknown()
    share, extra = total / count, Z**2 / count
    centre = (share + extra / 2) / (1 + extra)
    half = Z * math.sqrt(share * (1 - share) / count + extra / (4 * count)) / (1 + extra)
    # Both ends are exact there, and rounding must not leave the value outside.
    return Interval(value=share, low=0.0 if total == 0 else centre - half, high=1.0 if total == count else centre + half)


def bootstrap(statistic: Statistic, questions: int, *, resamples: int, seed: int) -> Interval:
    """Bias-corrected and accelerated bootstrap over questions (Efron 1987).

    Resamples without a value are left out and counted. Where all the others say the same there are no bounds: no spread was seen, which is
    not to say that there is none.
    """
    value = plain(statistic, questions)
    if math.isnan(value):
        return unknown()
    drawn = np.concatenate([statistic(weights) for weights in resampled(questions, resamples, np.random.default_rng(seed))])
    defined = drawn[~np.isnan(drawn)]
    left_out = len(drawn) - len(defined)
    if len(defined) == 0 or np.ptp(defined) < SAME:
        return unknown(value, left_out)
    # Where the value stands among its resamples; at their edge it counts as half a resample inside.
    below = np.mean(defined < value - SAME) + np.mean(np.abs(defined - value) <= SAME) / 2
    bias = ndtri(np.clip(below, 0.5 / len(defined), 1 - 0.5 / len(defined)))
    ends = bias + np.array([-Z, Z])
    low, high = np.quantile(defined, ndtr(bias + ends / (1 - acceleration(statistic, questions) * ends)))
    return Interval(value=value, low=float(low), high=float(high), left_out=left_out)


def resampled(questions: int, resamples: int, generator: np.random.Generator) -> Iterator[Floats]:
    """How often each question is drawn, [B, Q] at a time."""
    rows = max(1, ROOM // questions)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        places = generator.integers(questions, size=(count, questions)) + questions * np.arange(count)[:, None]
        yield np.bincount(places.ravel(), minlength=count * questions).reshape(count, questions).astype(np.float64)


def acceleration(statistic: Statistic, questions: int) -> float:
    """How fast the standard error changes with the value: a sixth of the skewness of the jackknife's influences, 0 where it is not known.

    Leaving out blocks has the same skewness in expectation as leaving out single questions: second and third cumulants both add up.
    """
    blocks = min(questions, BLOCKS)
    kept = (np.arange(questions) % blocks != np.arange(blocks)[:, None]).astype(np.float64)  # [blocks, Q]
    values = statistic(kept)
    influences = np.mean(values) - values
    squares = np.sum(influences**2)
    # A value that is not defined without some question leaves NaN here.
    return float(np.sum(influences**3) / (6 * squares**1.5)) if squares > SAME**2 else 0.0


def weighted_mean(parts: Sequence[Interval], weights: Sequence[float]) -> Interval:
    """Of values measured on different questions: square-and-add.

        low = value - sqrt(sum_i w_i^2 (value_i - low_i)^2)      high likewise; weights are divided by their sum

    Newcombe 1998 for Wilson's intervals, Zou & Donner 2008 for any. Exact for normal errors, keeps lopsided intervals lopsided, and stays
    within the range of the parts. Parts without bounds add no width: constant predictions would leave an average of many tasks without
    any. NaN where a value is, or where there is no part with a weight.
    """
    scale = math.fsum(weights)
    if not scale:
        return unknown()
    shares = [weight / scale for weight in weights]
    value = math.fsum(share * part.value for share, part in zip(shares, parts, strict=True))
    known = [(share, part) for share, part in zip(shares, parts, strict=True) if part.is_known]
    if math.isnan(value) or not known:
        return unknown(value)
    below = math.hypot(*(share * (part.value - part.low) for share, part in known))
    above = math.hypot(*(share * (part.high - part.value) for share, part in known))
    return Interval(value=value, low=value - below, high=value + above, left_out=sum(part.left_out for part in parts))
