"""Errors of estimates, against SciPy's intervals and against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from alignkit.evaluation.estimates import Change, Estimate

VALUES = np.random.default_rng(0).normal(size=(2, 23))


def test_a_mean_and_a_paired_change_have_the_intervals_of_t_tests() -> None:
    before, after = VALUES
    change = Change(before=Estimate.of_mean(before), after=Estimate.of_mean(after))
    for estimate, test in ((change.after, stats.ttest_1samp(after, 0)), (change.change, stats.ttest_rel(after, before))):
        interval = estimate.interval
        assert (interval.low, interval.high) == pytest.approx(tuple(test.confidence_interval()))
        assert interval.value == pytest.approx((interval.low + interval.high) / 2)


def test_a_ratio_weighs_units_by_what_they_count() -> None:
    # R = 12 / 6 = 2; s - R n = (0, 3, -3); divided by the mean count 2: (0, 1.5, -1.5).
    ratio = Estimate.of_ratio([2, 9, 1], [1, 3, 2])
    assert ratio.value == 2
    assert ratio.influences.tolist() == [0, 1.5, -1.5]
    assert ratio.standard_error == pytest.approx(math.sqrt(2 * 1.5**2 / (3 * 2)))


def test_the_error_of_a_ratio_is_that_of_ratios_drawn_anew() -> None:
    generator = np.random.default_rng(1)
    counts = generator.integers(1, 20, size=(1500, 60))
    sums = counts * 0.5 + generator.normal(size=counts.shape) * np.sqrt(counts)
    ratios = [Estimate.of_ratio(*one) for one in zip(sums, counts, strict=True)]
    spread = np.std([ratio.value for ratio in ratios])
    assert np.mean([ratio.standard_error for ratio in ratios]) == pytest.approx(spread, rel=0.06)
    covered = np.mean([ratio.interval.low < 0.5 < ratio.interval.high for ratio in ratios])
    assert 0.93 < covered < 0.97


def test_the_jackknife_of_a_mean_is_the_mean() -> None:
    values = VALUES[0]
    left_out = (values.sum() - values) / (len(values) - 1)
    jackknife, mean = Estimate.of_jackknife(float(values.mean()), left_out), Estimate.of_mean(values)
    assert jackknife.value == mean.value
    np.testing.assert_allclose(jackknife.influences, mean.influences)


def test_e_to_an_estimate_moves_by_its_slope() -> None:
    estimate = Estimate.of_mean([1.0, 2.0, 3.0])
    assert estimate.exp().value == pytest.approx(math.e**2)
    assert estimate.exp().standard_error == pytest.approx(math.e**2 / math.sqrt(3))
    assert estimate.times(-0.5).value == -1
    assert estimate.times(-0.5).standard_error == pytest.approx(0.5 / math.sqrt(3))


def test_a_single_unit_tells_no_error() -> None:
    single = Estimate.of_mean([2.0])
    assert math.isnan(single.standard_error)
    assert not single.interval.is_known
    assert single.interval.value == 2


def test_where_nothing_is_counted_there_is_no_ratio() -> None:
    assert math.isnan(Estimate.of_ratio([0, 0], [0, 0]).value)


def test_the_same_twice_has_not_changed() -> None:
    change = Change(before=Estimate.of_mean(VALUES[0]), after=Estimate.of_mean(VALUES[0])).change
    assert (change.value, change.interval.low, change.interval.high) == (0, 0, 0)


def test_a_change_of_what_varies_together_is_surer_than_either_side() -> None:
    shift = Change(before=Estimate.of_mean(VALUES[0]), after=Estimate.of_mean(VALUES[0] + 1)).change
    assert shift.value == pytest.approx(1)
    assert shift.standard_error < 1e-12
