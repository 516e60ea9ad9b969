"""Statistics of questions of which some count more than once, so that a whole bootstrap is a few products of matrices.

    Q questions   B resamples   U levels: the different numbers that a variable takes

A statistic takes weights [B, Q], how often each question counts in each resample, and returns [B] values, NaN where there is none. Weights
of 1 give its plain value. Functions of scikit-learn, SciPy and torchmetrics, which the tests hold these against, take one resample at a
time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias, final

import numpy as np

from alignkit.evaluation.grading import Floats, Integers

Statistic: TypeAlias = Callable[[Floats], Floats]


def plain(statistic: Statistic, questions: int) -> float:
    """The value where every question counts once; NaN of no questions."""
    return float(statistic(np.ones((1, questions)))[0]) if questions else math.nan


def ratio(numerator: Floats, denominator: Floats, otherwise: float = math.nan) -> Floats:
    """[B] quotients, `otherwise` where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, otherwise), where=denominator != 0)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Levels:
    """A variable [Q] as the different numbers that it takes."""

    values: Floats
    """[U], ascending."""
    places: Integers
    """[Q], the level of each question."""
    order: Integers
    """[Q] questions, those of one level side by side."""
    starts: Integers
    """[U], where each level begins in `order`."""

    @classmethod
    def of(cls, numbers: Floats) -> Self:
        values, places = np.unique(numbers, return_inverse=True)
        order = np.argsort(places, kind="stable")
        return cls(values=values, places=places, order=order, starts=np.searchsorted(places[order], np.arange(len(values))))

    def sums(self, weights: Floats) -> Floats:
        """[B, U] of weights [B, Q]."""
        return np.add.reduceat(weights[:, self.order], self.starts, axis=1)


def mean(numbers: Floats) -> Statistic:
    """The mean of one number [Q] a question."""
    return lambda weights: ratio(weights @ numbers, weights.sum(axis=1))


def mean_of(statistics: Sequence[Statistic]) -> Statistic:
    """The mean of several statistics; NaN where one of them is."""
    return lambda weights: np.mean([statistic(weights) for statistic in statistics], axis=0)


def difference(first: Statistic, second: Statistic) -> Statistic:
    """By how much the first is larger, on the same resamples."""
    return lambda weights: first(weights) - second(weights)


def f1(predicted: Integers, gold: Integers) -> Statistic:
    """2 tp / (2 tp + fp + fn) of place 1; 0 where neither predictions nor questions have it, as scikit-learn's `zero_division=0`."""
    said, right = predicted == 1, gold == 1
    hits = (said & right).astype(np.float64)
    both = said.astype(np.float64) + right.astype(np.float64)  # 2 tp + fp + fn
    return lambda weights: ratio(2 * (weights @ hits), weights @ both, otherwise=0.0)


def matthews(predicted: Integers, gold: Integers) -> Statistic:
    """Matthews correlation, for any number of classes (Gorodkin 2004, R_K); 0 where predictions or answers are all the same.

    (c s - p . t) / sqrt((s^2 - p . p) (s^2 - t . t))      s questions, c right ones, p and t how often a class is said and is right
    """
    classes = np.arange(max(predicted.max(initial=0), gold.max(initial=0)) + 1)
    said, right = ((places[:, None] == classes).astype(np.float64) for places in (predicted, gold))  # [Q, classes]
    hits = (predicted == gold).astype(np.float64)

    def statistic(weights: Floats) -> Floats:
        total, p, t = weights.sum(axis=1), weights @ said, weights @ right
        covariance = (weights @ hits) * total - (p * t).sum(axis=1)
        # Whole numbers, so that a constant leaves exactly 0.
        of_said, of_right = (total**2 - (counts**2).sum(axis=1) for counts in (p, t))
        return ratio(covariance, np.sqrt(of_said) * np.sqrt(of_right), otherwise=0.0)

    return statistic


def pearson(first: Floats, second: Floats) -> Statistic:
    """Pearson's correlation of two variables [Q]; NaN where one of them is constant, as SciPy has it."""
    levels = [Levels.of(first), Levels.of(second)]
    # Centred once, so that sums of squares do not cancel.
    x, y = first - first.mean(), second - second.mean()
    columns = np.stack([x, y, x * x, y * y, x * y], axis=1)  # [Q, 5]

    def statistic(weights: Floats) -> Floats:
        total = weights.sum(axis=1)
        sx, sy, sxx, syy, sxy = (weights @ columns).T
        varies = np.logical_and(*((level.sums(weights) > 0).sum(axis=1) > 1 for level in levels))
        scale = np.sqrt(np.maximum(total * sxx - sx**2, 0)) * np.sqrt(np.maximum(total * syy - sy**2, 0))
        return np.clip(ratio(total * sxy - sx * sy, np.where(varies, scale, 0.0)), -1.0, 1.0)

    return statistic


def spearman(first: Floats, second: Floats) -> Statistic:
    """Pearson's correlation of ranks, those of equal numbers shared, within each resample; NaN where a variable [Q] is constant."""
    levels = [Levels.of(first), Levels.of(second)]

    def statistic(weights: Floats) -> Floats:
        counts = [level.sums(weights) for level in levels]
        # The mean of the ranks that a level's questions take, less the mean of all ranks.
        ranks = [own.cumsum(axis=1) - own / 2 - weights.sum(axis=1, keepdims=True) / 2 for own in counts]  # [B, U]
        spreads = [np.sqrt((own * rank**2).sum(axis=1)) for own, rank in zip(counts, ranks, strict=True)]
        x, y = (rank[:, level.places] for rank, level in zip(ranks, levels, strict=True))  # [B, Q]
        return np.clip(ratio(np.einsum("bq,bq,bq->b", weights, x, y), spreads[0] * spreads[1]), -1.0, 1.0)

    return statistic
