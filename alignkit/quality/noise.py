"""How many labels are wrong, and which: from what a cheap model on words, which never saw a label's prompt, makes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from scipy import sparse  # type: ignore[import-untyped]
from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]
from scipy.special import expit, xlogy  # type: ignore[import-untyped]
from scipy.stats import chi2  # type: ignore[import-untyped]
from sklearn.feature_extraction.text import HashingVectorizer  # type: ignore[import-untyped]
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from alignkit.evaluation.intervals import LEVEL, Interval, unknown
from alignkit.quality.clustered import clustered_share
from alignkit.quality.comparisons import Comparison, Floats, Ints

FOLDS = 5
FEATURES = 2**18
"""Hashed words and pairs of neighbouring words."""
C = 0.1
"""Of the logistic regression: how little its weights are held back."""
FEWEST_PROMPTS = 50
"""Fewer tell nothing of any fold."""
CHANCE = 0.55
"""Accuracy that must be surpassed for certain before a model's doubts mean anything."""
RATES = np.linspace(0.0, 0.498, 250)
"""Rates that the likelihood is looked at for."""
SLOPES = (math.log(0.02), math.log(4.0))
"""Logarithms of the slopes that are tried. Held-back weights make a model less sure than it could be (twice, on worlds with known labels);
without a bound, a model that is as often right where it is unsure would pass for one that is always right on labels full of mistakes."""
BINS = 400
"""Of margins of about the same size, which are told as one: the likelihood is looked at thousands of times."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Noise:
    """What out-of-fold predictions say of labels."""

    comparisons: int
    prompts: int
    accuracy: Interval
    """Share of labels that the model predicts."""
    tells: bool
    """Whether the model is surely better than chance, and there are enough prompts; else it says nothing of labels."""
    rate: Interval
    """Share of labels that are flipped by mistake: `mistake_rate`. NaN where the model tells nothing."""
    confident: float
    """The same by confident learning, which takes the model's own mistakes for the labels': `confident_rate`. NaN likewise."""
    margins: Floats
    """[B] what the model, fitted without the comparison's prompt, makes of each label in nats; below 0 it contradicts it. Empty of too few
    prompts."""


def noise_of(found: Sequence[Comparison]) -> Noise:
    """Out-of-fold margins of all comparisons, and what they say. Time grows with the words."""
    prompts = np.array([one.prompt for one in found], dtype=np.int64)
    count = len(np.unique(prompts))
    if count < FEWEST_PROMPTS:
        margins = np.zeros(0)
        accuracy = unknown()
    else:
        margins = out_of_fold([one.chosen for one in found], [one.rejected for one in found], prompts)
        accuracy = clustered_share((1 + np.sign(margins)) / 2, prompts)
    tells = accuracy.is_known and accuracy.low > CHANCE
    return Noise(
        comparisons=len(found),
        prompts=count,
        accuracy=accuracy,
        tells=tells,
        rate=mistake_rate(margins, independent=count) if tells else unknown(),
        confident=confident_rate(margins) if tells else math.nan,
        margins=margins,
    )


def out_of_fold(chosen: Sequence[str], rejected: Sequence[str], prompts: Ints) -> Floats:
    """[B] log-odds of each label by logistic regression on how often words, and pairs of them, are in one completion more than in the
    other, and on their lengths; fitted on the comparisons of other prompts. All prompts of a comparison's fold are left out."""
    counts = HashingVectorizer(ngram_range=(1, 2), n_features=FEATURES, alternate_sign=False, norm=None, token_pattern=r"\w+|[^\w\s]")
    sides = [counts.transform(texts) for texts in (chosen, rejected)]
    for side in sides:
        np.log1p(side.data, out=side.data)
    lengths = [np.log1p([len(text) for text in texts]) for texts in (chosen, rejected)]
    differences = sparse.hstack([sides[0] - sides[1], sparse.csr_matrix((lengths[0] - lengths[1])[:, None])]).tocsr()
    generator = np.random.default_rng(0)
    numbers, place = np.unique(prompts, return_inverse=True)
    folds = (generator.permutation(len(numbers)) % FOLDS)[place]
    # The regression wants two classes, and gives the same weights whichever way round a comparison is told.
    told = np.where(generator.random(len(prompts)) < 0.5, 1.0, -1.0)
    turned = differences.multiply(told[:, None]).tocsr()
    margins = np.zeros(len(prompts))
    for fold in range(FOLDS):
        mine = folds == fold
        model: Any = LogisticRegression(C=C, fit_intercept=False, solver="liblinear", random_state=0)
        model.fit(turned[~mine], told[~mine] > 0)
        margins[mine] = differences[mine] @ model.coef_[0]
    return margins


def mistake_rate(margins: Floats, *, independent: int) -> Interval:
    """The share of labels that are flipped whatever the texts are, by maximum likelihood.

        P(label = model's | margin m) = e + (1 - 2 e) sigmoid(b |m|)

    However sure the model becomes, a share e of labels contradicts it: a mixture of labels that follow it, with the slope b, and flipped
    ones (the lapse rate of psychometric functions: Wichmann & Hill 2001; Natarajan et al. 2013 of labels). It is told by the comparisons
    that the model is sure of, so the interval is wide where it is sure of none. Mistakes that go with the texts (a taste, a rule) are no
    mistakes to it. The interval is the profile likelihood's.

    Args:
        margins: [B] out-of-fold.
        independent: how many of them count as such: prompts, where these have several comparisons.
    """
    known = margins[margins != 0]
    if not len(known):
        return unknown()
    order = np.argsort(np.abs(known), kind="stable")
    parts = np.array_split(known[order], min(BINS, len(known)))
    sure = np.array([np.abs(part).mean() for part in parts])
    agreeing, counts = (np.array([of(part) for part in parts], dtype=np.float64) for of in (lambda part: (part > 0).sum(), len))
    weight = min(1.0, independent / len(margins))

    def cost(log_slope: float, rate: float) -> float:
        chance = rate + (1 - 2 * rate) * expit(math.exp(log_slope) * sure)
        return -weight * float(xlogy(agreeing, chance).sum() + xlogy(counts - agreeing, 1 - chance).sum())

    profile = np.array([minimize_scalar(cost, bounds=SLOPES, args=(rate,), method="bounded").fun for rate in RATES])
    inside = RATES[profile <= profile.min() + chi2.ppf(LEVEL, 1) / 2]
    return Interval(value=float(RATES[profile.argmin()]), low=float(inside.min()), high=float(inside.max()))


def confident_rate(margins: Floats) -> float:
    """Confident learning (Northcutt et al. 2021, arXiv:1911.00068, equations 1 and 2) of labels that may be told either way round: with t
    the mean chance that the model gives to the labels, those off the confident joint's diagonal over all in it.

        C(label) = #{p >= t}      C(the other) = #{1 - p >= t}      rate = C(the other) / (C(label) + C(the other))

    Its model is taken to be right where it is sure, so that the rate is too high where it is not. NaN where it is sure of none.
    """
    chances = expit(margins)
    threshold = float(chances.mean())
    agreeing, other = int((chances >= threshold).sum()), int((1 - chances >= threshold).sum())
    return other / (agreeing + other) if agreeing + other else math.nan
