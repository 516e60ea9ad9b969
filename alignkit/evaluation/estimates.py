"""Numbers of two models on the same prompts, texts or questions, and what changes between them, all with closed-form uncertainty.

U units: what is drawn anew
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self, final

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats  # type: ignore[import-untyped]

from alignkit.evaluation.grading import Floats
from alignkit.evaluation.intervals import LEVEL, Interval, unknown


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A number, and how far each unit moves it.

    Means, ratios of sums and jackknifed numbers are, to first order, means of one number a unit, whatever they look like: their standard
    errors, and those of differences between two of them on the same units, follow from these numbers alone (the delta method; van der
    Vaart 1998, Asymptotic Statistics, chapter 20).
    """

    value: float
    influences: Floats
    """[U] with mean 0: what the estimate would be drawn by if there were more units like this one."""

    @classmethod
    def of_mean(cls, values: ArrayLike) -> Self:
        """The mean of one number a unit."""
        every = np.asarray(values, dtype=np.float64)
        mean = float(every.mean())
        return cls(value=mean, influences=every - mean)

    @classmethod
    def of_ratio(cls, sums: ArrayLike, counts: ArrayLike) -> Self:
        """A sum over all units over a count over all units, such as nats a token: R = sum s / sum n, with influences (s - R n) / mean n.

        Cochran 1977, Sampling Techniques, section 2.11. NaN where there is nothing to count.
        """
        above, below = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
        if below.sum() == 0:
            return cls(value=math.nan, influences=np.full(len(below), math.nan))
        ratio = float(above.sum() / below.sum())
        return cls(value=ratio, influences=(above - ratio * below) / below.mean())

    @classmethod
    def of_jackknife(cls, value: float, without: ArrayLike) -> Self:
        """Any number that moves little with one unit: `without` [U] is what it is when each unit is left out.

        Efron & Stein 1981, The jackknife estimate of variance.
        """
        left = np.asarray(without, dtype=np.float64)
        return cls(value=value, influences=(len(left) - 1) * (left.mean() - left))

    @property
    def standard_error(self) -> float:
        """Over units drawn anew; NaN for a single one."""
        units = len(self.influences)
        return math.sqrt(float(np.square(self.influences).sum()) / (units * (units - 1))) if units > 1 else math.nan

    @property
    def interval(self) -> Interval:
        """The 95 % interval, by Student's t, for there may be few units; without bounds for a single one."""
        if math.isnan(self.standard_error):
            return unknown(self.value)
        half = float(stats.t.ppf((1 + LEVEL) / 2, len(self.influences) - 1)) * self.standard_error
        return Interval(value=self.value, low=self.value - half, high=self.value + half)

    def minus(self, other: Self) -> Self:
        """The difference from another estimate on the same units, in the same order."""
        return type(self)(value=self.value - other.value, influences=self.influences - other.influences)

    def times(self, factor: float) -> Self:
        """The same in another unit."""
        return type(self)(value=factor * self.value, influences=factor * self.influences)

    def exp(self) -> Self:
        """e to it."""
        power = math.exp(self.value)
        return type(self)(value=power, influences=power * self.influences)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A number of two models on the same units."""

    before: Estimate
    """Of the reference."""
    after: Estimate
    """Of the model."""

    @property
    def change(self) -> Estimate:
        """After less before, unit by unit."""
        return self.after.minus(self.before)
