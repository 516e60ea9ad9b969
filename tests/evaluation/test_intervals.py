"""Intervals, against SciPy, and how often they hold the true value."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from alignkit.evaluation.grading import Floats, Integers
from alignkit.evaluation.intervals import BLOCKS, Interval, acceleration, bootstrap, resampled, weighted_mean, wilson
from alignkit.evaluation.statistics import Statistic, f1, matthews, mean, pearson, spearman

REPETITIONS = 400


@pytest.mark.parametrize("count", [1, 2, 9, 200])
def test_wilson_is_that_of_scipy_for_whole_counts(count: int):
    for total in range(count + 1):
        expected = stats.binomtest(total, count).proportion_ci(method="wilson")
        own = wilson(total, count)
        assert (own.value, own.low, own.high) == pytest.approx((total / count, expected.low, expected.high), abs=1e-12)
        assert own.low <= own.value <= own.high


def test_half_credits_lie_between_whole_ones():
    below, half, above = (wilson(total, 20) for total in (7, 7.5, 8))
    assert below.low < half.low < above.low
    assert below.high < half.high < above.high
    # p = 3/8, z^2 = 3.841459: (0.375 + z^2/40 -+ z sqrt(0.375 0.625 / 20 + z^2/1600)) / (1 + z^2/20) = 0.395140 -+ 0.195370
    assert (half.low, half.high) == pytest.approx((0.199770, 0.590510), abs=2e-6)


def test_all_right_and_all_wrong_are_not_known_for_sure():
    assert wilson(10, 10).high == 1
    assert wilson(10, 10).low == pytest.approx(10 / (10 + 1.959964**2), rel=1e-6)
    assert (wilson(0, 10).low, wilson(0, 10).high) == pytest.approx((0, 1 - wilson(10, 10).low))


@pytest.mark.parametrize("seed", range(3))
def test_the_bootstrap_is_that_of_scipy(seed: int):
    numbers = np.random.default_rng(seed).exponential(size=40)  # skewed: bias and acceleration matter
    own = bootstrap(mean(numbers), 40, resamples=40_000, seed=0)
    theirs, percentiles = (
        stats.bootstrap((numbers,), np.mean, n_resamples=40_000, method=method, rng=np.random.default_rng(0))
        for method in ("BCa", "percentile")
    )
    expected, error = theirs.confidence_interval, theirs.standard_error
    assert own.value == pytest.approx(numbers.mean())
    # With SciPy's draws as they are, it is the same to rounding; a version that draws otherwise leaves noise.
    assert (own.low, own.high) == pytest.approx((expected.low, expected.high), abs=0.1 * error)
    assert abs(percentiles.confidence_interval.high - expected.high) > 0.15 * error  # so that the two methods are told apart


def of_yes_and_no(generator: np.random.Generator) -> tuple[Integers, Integers]:
    """A third of 70 questions is 1, and answers are wrong in one of five."""
    gold = (generator.random(70) < 1 / 3).astype(np.int64)
    return np.where(generator.random(70) < 0.2, 1 - gold, gold), gold


def of_numbers(generator: np.random.Generator) -> tuple[Floats, Floats]:
    """70 pairs with correlation 0.6."""
    first = generator.normal(size=70)
    return first, 0.6 * first + 0.8 * generator.normal(size=70)


RIGHT_ONES, FALSE_ALARMS, MISSES, TRUE_NOES = 0.8 / 3, 0.4 / 3, 0.2 / 3, 1.6 / 3
"""The table of `of_yes_and_no`."""


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        pytest.param(lambda generator: f1(*of_yes_and_no(generator)), 2 * RIGHT_ONES / (2 * RIGHT_ONES + FALSE_ALARMS + MISSES), id="f1"),
        pytest.param(
            lambda generator: matthews(*of_yes_and_no(generator)),
            (RIGHT_ONES * TRUE_NOES - FALSE_ALARMS * MISSES) / math.sqrt(1 / 3 * 2 / 3 * 0.4 * 0.6),
            id="matthews",
        ),
        pytest.param(lambda generator: pearson(*of_numbers(generator)), 0.6, id="pearson"),
        # Of normal variables: 6/pi arcsin(r/2).
        pytest.param(lambda generator: spearman(*of_numbers(generator)), 6 / math.pi * math.asin(0.3), id="spearman"),
    ],
)
def test_intervals_hold_the_true_value_about_as_often_as_they_say(draw: Callable[[np.random.Generator], Statistic], truth: float):
    held = 0
    for repetition in range(REPETITIONS):
        interval = bootstrap(draw(np.random.default_rng(repetition)), 70, resamples=300, seed=repetition)
        held += interval.low <= truth <= interval.high
    # 0.95 less a little for 70 questions; the standard error of the share is 0.011.
    assert 0.915 < held / REPETITIONS < 0.98


def test_a_seed_says_everything():
    numbers = np.random.default_rng(0).random(50)
    first, again, other = (bootstrap(mean(numbers), 50, resamples=200, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_every_resample_draws_as_many_questions_as_there_are():
    weights = np.concatenate([*resampled(1500, 2000, np.random.default_rng(0))])  # in two pieces
    assert weights.shape == (2000, 1500)
    assert (weights.sum(axis=1) == 1500).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(1500), abs=0.15)  # 6.7 standard errors


def test_resamples_without_a_value_are_left_out_and_counted():
    x = np.array([0.0, 0.0, 0.0, 0.0, 1.0])
    interval = bootstrap(pearson(x, np.array([0.0, 1.0, 2.0, 3.0, 9.0])), 5, resamples=2000, seed=0)
    # Four fifths to the fifth miss the last question, and a few draw nothing else.
    assert interval.left_out / 2000 == pytest.approx(0.8**5 + 0.2**5, abs=0.04)
    assert interval.is_known
    assert interval.low <= interval.value <= interval.high


@pytest.mark.parametrize(
    ("statistic", "questions", "value"),
    [
        pytest.param(mean(np.zeros(0)), 0, math.nan, id="no questions"),
        pytest.param(mean(np.array([0.7])), 1, 0.7, id="one question"),
        pytest.param(mean(np.full(9, 0.1)), 9, 0.1, id="all the same"),
        pytest.param(f1(np.ones(4, dtype=np.int64), np.ones(4, dtype=np.int64)), 4, 1.0, id="all right"),
        pytest.param(f1(np.array([0, 1, 0, 1]), np.array([1, 0, 1, 0])), 4, 0.0, id="all wrong"),
        pytest.param(matthews(np.array([1, 1, 1, 1]), np.array([0, 1, 1, 0])), 4, 0.0, id="one answer to all"),
        pytest.param(pearson(np.zeros(4), np.arange(4.0)), 4, math.nan, id="undefined"),
    ],
)
def test_where_questions_show_no_spread_there_are_no_bounds(statistic: Statistic, questions: int, value: float):
    interval = bootstrap(statistic, questions, resamples=400, seed=0)
    assert interval.value == pytest.approx(value, nan_ok=True)
    assert not interval.is_known


def test_acceleration_of_a_mean_is_a_sixth_of_its_skewness():
    numbers = np.random.default_rng(0).exponential(size=BLOCKS)
    away = numbers - numbers.mean()
    expected = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    assert expected > 0.01
    assert acceleration(mean(numbers), BLOCKS) == pytest.approx(expected)
    # Blocks of three questions that are alike tell the same as questions that count three times.
    assert acceleration(mean(np.tile(numbers, 3)), 3 * BLOCKS) == pytest.approx(expected)
    assert acceleration(mean(np.full(5, 0.3)), 5) == 0


def test_a_mean_over_different_questions_squares_and_adds():
    one, other = Interval(value=0.5, low=0.4, high=0.7), Interval(value=0.8, low=0.5, high=0.9, left_out=3)
    both = weighted_mean([one, other], [3, 1])
    assert both.value == pytest.approx(0.575)
    assert both.low == pytest.approx(0.575 - math.sqrt((0.75 * 0.1) ** 2 + (0.25 * 0.3) ** 2))
    assert both.high == pytest.approx(0.575 + math.sqrt((0.75 * 0.2) ** 2 + (0.25 * 0.1) ** 2))
    assert both.left_out == 3


def test_parts_without_bounds_add_no_width_and_one_without_a_value_leaves_none():
    known, constant = Interval(value=0.5, low=0.4, high=0.6), Interval(value=0.0, low=math.nan, high=math.nan)
    both = weighted_mean([known, constant], [1, 1])
    assert (both.value, both.low, both.high) == pytest.approx((0.25, 0.2, 0.3))
    assert not weighted_mean([constant, constant], [1, 1]).is_known
    assert math.isnan(weighted_mean([known, Interval(value=math.nan, low=math.nan, high=math.nan)], [1, 1]).value)
    assert math.isnan(weighted_mean([], []).value)


def test_a_mean_of_proportions_holds_the_true_mean_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    truths, counts = np.array([0.97, 0.6, 0.3]), np.array([30, 50, 80])
    held = 0
    for totals in generator.binomial(counts, truths, size=(2000, 3)):
        interval = weighted_mean([wilson(float(total), int(count)) for total, count in zip(totals, counts, strict=True)], [1, 1, 1])
        held += interval.low <= truths.mean() <= interval.high
    assert 0.93 < held / 2000 < 0.97


def test_what_is_not_known_is_null():
    assert Interval(value=0.0, low=math.nan, high=math.nan, left_out=2).to_json() == {
        "value": 0.0,
        "low": None,
        "high": None,
        "left_out": 2,
    }
