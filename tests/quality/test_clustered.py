"""Intervals of means where comparisons of one prompt go together."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from alignkit.quality.clustered import area, clustered_mean, clustered_share, standard_error


def test_where_each_prompt_has_one_comparison_it_is_the_usual_interval():
    values = np.random.default_rng(0).normal(3.0, 2.0, 40)
    found = clustered_mean(values, np.arange(40))
    usual = stats.ttest_1samp(values, 0.0).confidence_interval()
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), usual.low, usual.high))


def test_telling_every_comparison_twice_makes_nothing_surer():
    values, prompts = np.random.default_rng(1).normal(size=30), np.arange(30)
    once = standard_error(values, prompts)
    assert standard_error(np.repeat(values, 2), np.repeat(prompts, 2)) == pytest.approx(once)


def test_a_share_of_independent_credits_has_wilsons_interval():
    hits = np.array([1.0] * 30 + [0.0] * 70)
    found = clustered_share(hits, np.arange(100))
    usual = stats.binomtest(30, 100).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((usual.low, usual.high), abs=2e-3)


def test_shares_of_none_and_of_a_single_prompt():
    assert math.isnan(clustered_share(np.zeros(0), np.zeros(0, dtype=int)).value)
    whole = clustered_share(np.ones(50), np.zeros(50, dtype=int))
    assert (whole.value, whole.high) == (1.0, 1.0)
    assert whole.low < 0.5  # one prompt, however often it is asked


def test_the_area_is_scikit_learns_and_covers_the_truth():
    generator = np.random.default_rng(2)
    truth = stats.norm.cdf(0.5 / math.sqrt(2))
    covered = 0
    for _ in range(100):
        chosen, rejected = generator.normal(0.5, 1, 60), generator.normal(0, 1, 60)
        found = area(chosen, rejected, np.arange(60))
        covered += found.low <= truth <= found.high
    assert found.value == pytest.approx(roc_auc_score([1] * 60 + [0] * 60, np.concatenate([chosen, rejected])))
    assert 88 <= covered <= 99  # of which 95 are expected


def test_ties_count_one_half():
    assert area(np.array([1.0, 2.0]), np.array([1.0, 2.0]), np.arange(2)).value == pytest.approx(0.5)
