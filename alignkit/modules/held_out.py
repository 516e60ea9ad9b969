"""What held-out samples say beside their scores: how far their policy is from the reference, and whether they repeat themselves.

C samples   N tokens
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor

from alignkit.advantages import KL_ESTIMATORS
from alignkit.logps import completion_sums
from alignkit.metrics import DISTINCT_1, DISTINCT_2, KL, KL_K3, KL_K3_STANDARD_ERROR, KL_STANDARD_ERROR, REFERENCE_NLL
from alignkit.rollout import Rollout


def divergence(rollout: Rollout) -> dict[str, float]:
    """KL(policy | reference) a sequence, nats, estimated from samples of the policy by k1 and by k3, and what the reference thinks of them.

        k1: mean over samples of sum_t x_t          k3: mean over samples of sum_t (e^-x_t - 1 + x_t)          x = log pi - log ref

    Both are unbiased (http://joschu.net/blog/kl-approx.html). Standard errors are those of samples drawn anew, NaN for a single one. The
    last value is -log ref a token, over all tokens.
    """
    count, log_ratios = len(rollout.scores), rollout.logps - rollout.reference_logps
    values = {REFERENCE_NLL: float(-rollout.reference_logps.double().mean())}
    for estimator, name, error in (("k1", KL, KL_STANDARD_ERROR), ("k3", KL_K3, KL_K3_STANDARD_ERROR)):
        estimates = completion_sums(KL_ESTIMATORS[estimator](log_ratios), rollout.completion_index, count)  # [C]
        values |= {name: float(estimates.double().mean()), error: standard_error(estimates)}
    return values


def standard_error(values: Tensor) -> float:
    """Of the mean of independent values [C]; NaN for a single one."""
    return float(values.double().std(correction=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def distinctness(texts: Sequence[str]) -> dict[str, float]:
    """Different words, and pairs of neighbouring words, of all texts over how many there are: 1 where nothing is repeated. NaN where texts
    have none. Li et al. 2016 (arXiv:1510.03055), distinct-1 and distinct-2; words are what white space separates, in lower case.

    A scorer that adds up words of praise is pleased by a policy that says the same ones again and again; this is not.
    """
    grams = [word_grams(text) for text in texts]
    singles, pairs = [word for words, _ in grams for word in words], [pair for _, pairs in grams for pair in pairs]
    return {name: len(set(every)) / len(every) if every else math.nan for name, every in ((DISTINCT_1, singles), (DISTINCT_2, pairs))}


def word_grams(text: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The words of a text, and its pairs of neighbouring words: words are what white space separates, in lower case."""
    words = text.lower().split()
    return words, list(itertools.pairwise(words))
