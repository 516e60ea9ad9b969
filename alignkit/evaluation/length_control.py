"""How often the right answer would win if both had the same length.

Length-controlled AlpacaEval (Dubois et al. 2024, arXiv:2404.04475) regresses a judge's preferences on what a model is worth and on the
difference in length, and reads the regression off where that difference is 0. Here, with one model and no difficulties of instructions:

    P(right one preferred) = sigmoid(a + b tanh(d / std(d)))      d: tokens of the right one less those of the wrong one
    length-controlled accuracy = sigmoid(a)

d is scaled but not centred, as there: 0 must stay equal length. Ties are half a win. They fit with an L1 penalty; here b alone has a ridge,
b^2 / (2 C) with the C = 100 of their fit without cross-validation, so that b is finite on pairs that length alone tells apart, and so that
without an effect of length the plain accuracy comes out.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit  # type: ignore[import-untyped]

from alignkit.evaluation.grading import Floats, Integers
from alignkit.evaluation.statistics import Levels, Statistic, ratio

RIDGE = 0.01
ITERATIONS = 100
TOLERANCE = 1e-9
"""Of the last step of a and b."""


def length_controlled(preferred: Floats, differences: Integers) -> Statistic:
    """Of pairs: whether the right one is preferred [P], in [0, 1], and by how many tokens it is longer [P].

    1 or 0 where all or none are preferred. The plain mean where all differ by the same number of tokens: no pair tells what length is
    worth, and the ridge takes it to be worth nothing. NaN of no pairs.
    """
    levels = Levels.of(differences.astype(np.float64))

    def statistic(weights: Floats) -> Floats:
        wins, losses = levels.sums(weights * preferred), levels.sums(weights * (1 - preferred))  # [B, U]
        totals = wins + losses
        counts = totals.sum(axis=1)
        values = ratio(wins.sum(axis=1), counts)
        varied = (totals > 0).sum(axis=1) > 1
        fitted = np.flatnonzero(varied & (wins.sum(axis=1) > 0) & (losses.sum(axis=1) > 0))
        wins, losses, totals, counts = wins[fitted], losses[fitted], totals[fitted], counts[fitted]
        means = totals @ levels.values / counts
        spreads = np.sqrt((totals * (levels.values - means[:, None]) ** 2).sum(axis=1) / counts)  # [B] tokens
        values[fitted] = expit(intercepts(wins, losses, np.tanh(levels.values / spreads[:, None])))
        return values

    return statistic


def intercepts(wins: Floats, losses: Floats, features: Floats) -> Floats:
    """a [B] of logistic regressions with an intercept and one feature [B, U], on wins and losses [B, U], some of each in every row.

    Newton's method on a concave objective; a step is halved until it does not lose, so that it converges from anywhere.
    """
    totals = wins + losses
    a, b = np.zeros(len(wins)), np.zeros(len(wins))

    def objective(a: Floats, b: Floats) -> Floats:
        logits = a[:, None] + b[:, None] * features
        likelihood: Floats = (wins * logits - totals * np.logaddexp(0, logits)).sum(axis=1)
        return likelihood - RIDGE / 2 * b**2

    height = objective(a, b)
    for _ in range(ITERATIONS if len(wins) else 0):
        shares = expit(a[:, None] + b[:, None] * features)
        errors, curvature = wins - totals * shares, totals * shares * (1 - shares)
        slope_a, slope_b = errors.sum(axis=1), (errors * features).sum(axis=1) - RIDGE * b
        aa, ab, bb = curvature.sum(axis=1), (curvature * features).sum(axis=1), (curvature * features**2).sum(axis=1) + RIDGE
        determinant = aa * bb - ab**2
        step_a, step_b = (bb * slope_a - ab * slope_b) / determinant, (aa * slope_b - ab * slope_a) / determinant
        size = np.ones(len(a))
        for _ in range(ITERATIONS):
            reached = objective(a + size * step_a, b + size * step_b)
            # Rounding alone may lose at the top.
            worse = ~(reached >= height - 1e-12 * (1 + np.abs(height)))
            if not worse.any():
                break
            size[worse] /= 2
        a, b, height = a + size * step_a, b + size * step_b, reached
        if max(np.abs(step_a).max(), np.abs(step_b).max()) < TOLERANCE:
            break
    return a
