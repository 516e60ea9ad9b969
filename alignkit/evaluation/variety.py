"""Whether samples repeat themselves and each other: distinct-n and self-BLEU.   P prompts   M samples of each"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
from torchmetrics.functional.text import bleu_score

from alignkit.evaluation.cost_measures import DISTINCT_1, DISTINCT_2, SELF_BLEU, SELF_BLEU_ACROSS
from alignkit.evaluation.estimates import Estimate
from alignkit.modules.held_out import word_grams

ORDER = 4
"""Longest n-grams of BLEU."""
GROUP = 10
"""Prompts whose samples are compared with each other: BLEU grows with the number of texts that it compares with."""
MOST_COMPARED = 1000
"""Samples that are compared with those of their own prompt, and with those of others; the first ones. BLEU is slow."""

Texts = Sequence[Sequence[str]]
"""P lists of M texts."""


def variety(samples: Texts) -> dict[str, Estimate]:
    """Measures of variety by name, each with the units that it is a mean over; without those that so few samples do not say."""
    estimates = distinct(samples)
    several = samples[: max(1, MOST_COMPARED // len(samples[0]))]
    if len(samples[0]) > 1:
        estimates[SELF_BLEU] = Estimate.of_mean([self_bleu(texts) for texts in several])
    firsts = [texts[0] for texts in samples[:MOST_COMPARED]]
    groups = [firsts[start : start + GROUP] for start in range(0, len(firsts), GROUP)]
    whole = [group for group in groups if len(group) == GROUP] or [group for group in groups if len(group) > 1]
    if whole:
        estimates[SELF_BLEU_ACROSS] = Estimate.of_mean([self_bleu(group) for group in whole])
    return estimates


def distinct(samples: Texts) -> dict[str, Estimate]:
    """Distinct-1 and distinct-2 of all samples, as `alignkit.modules.held_out.distinctness` has them. They fall with the number of
    samples and with their length.

    Uncertainty is that of prompts, by the jackknife: a bootstrap would draw texts twice, and so find words repeated that are not.
    """
    grams = [[word_grams(text) for text in texts] for texts in samples]
    return {
        name: _distinct([[gram for of_text in texts for gram in of_text[place]] for texts in grams])
        for place, name in enumerate((DISTINCT_1, DISTINCT_2))
    }


def _distinct(units: Sequence[Sequence[Hashable]]) -> Estimate:
    """Different grams over grams, of all units together."""
    every = [Counter(unit) for unit in units]
    total, owners = sum(map(len, units)), Counter[Hashable](gram for unit in every for gram in unit)
    if total == 0:
        return Estimate(value=math.nan, influences=np.full(len(units), math.nan))
    without = [
        # What only this unit says is lost with it.
        (len(owners) - sum(owners[gram] == 1 for gram in unit)) / (total - unit.total()) if unit.total() < total else math.nan
        for unit in every
    ]
    return Estimate.of_jackknife(len(owners) / total, without)


def self_bleu(texts: Sequence[str]) -> float:
    """BLEU of a set of texts, each against all others, in lower case: 1 where all are the same, 0 where no four words in a row are shared.

    Zhu et al. 2018, Texygen (arXiv:1802.01886), section 3.2; counts are added up over the texts as BLEU of a corpus does (Papineni et al.
    2002), so that a text without any shared four words does not need smoothing. Where the longest text has fewer than four words, so do
    the n-grams.
    """
    lowered = [text.lower() for text in texts]
    longest = max(len(text.split()) for text in lowered)
    if longest == 0:
        return 1.0  # the same nothing
    others = [[*lowered[:place], *lowered[place + 1 :]] for place in range(len(lowered))]
    return float(bleu_score(lowered, others, n_gram=min(ORDER, longest)))
