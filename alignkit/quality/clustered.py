"""Intervals of means over comparisons, of which those of one prompt are not independent."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from alignkit.evaluation.intervals import LEVEL, Interval, unknown, wilson
from alignkit.quality.comparisons import Floats, Ints


def clustered_mean(values: Floats, prompts: Ints) -> Interval:
    """Mean of values [B], its standard error from the sums of residuals of each prompt (Liang & Zeger 1986), Student's t over prompts."""
    clusters = len(np.unique(prompts))
    if clusters < 2:
        return unknown(float(values.mean()) if len(values) else math.nan)
    mean = float(values.mean())
    half = float(stats.t.ppf((1 + LEVEL) / 2, clusters - 1)) * standard_error(values, prompts)
    return Interval(value=mean, low=mean - half, high=mean + half)


def clustered_share(hits: Floats, prompts: Ints) -> Interval:
    """Mean of credits [B] in [0, 1]: Wilson's interval, for as many independent ones as would have the clustered standard error."""
    if not len(hits):
        return unknown()
    share, error = float(hits.mean()), standard_error(hits, prompts)
    clusters = len(np.unique(prompts))
    # Where all credits are the same nothing is known of their spread within prompts: a prompt counts once.
    count = clusters if error == 0 else max(1, min(len(hits), round(share * (1 - share) / error**2)))
    return wilson(share * count, count)


def standard_error(values: Floats, prompts: Ints) -> float:
    """Of the mean of values [B]; 0 of a single prompt."""
    _, place = np.unique(prompts, return_inverse=True)
    sums = np.bincount(place, weights=values - values.mean())
    clusters = len(sums)
    return math.sqrt(float(np.sum(sums**2)) * clusters / (clusters - 1)) / len(values) if clusters > 1 else 0.0


def area(chosen: Floats, rejected: Floats, prompts: Ints) -> Interval:
    """AUC of a number as a classifier: the chance that a chosen completion, of whatever prompt, has more of it than a rejected one; ties
    count one half. The interval is DeLong's for clustered data (Obuchowski 1997, Biometrics 53).

    Args:
        chosen, rejected: [B] the number for both sides of each comparison.
        prompts: [B] which prompt a comparison is of.
    """
    if not len(chosen):
        return unknown()
    of_chosen = _share_below(chosen, rejected)
    of_rejected = 1 - _share_below(rejected, chosen)
    value = float(of_chosen.mean())
    found = clustered_mean(of_chosen + of_rejected - value, prompts)
    return Interval(value=value, low=max(0.0, found.low), high=min(1.0, found.high)) if found.is_known else unknown(value)


def _share_below(values: Floats, others: Floats) -> Floats:
    """[B] of each value, the share of `others` that are less, those that are equal as one half."""
    ordered = np.sort(others)
    both = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")
    share: Floats = both / (2 * len(others))
    return share
