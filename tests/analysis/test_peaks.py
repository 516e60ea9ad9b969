"""Peaks of rewards: the paper's forms, whose parameters and maxima are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from alignkit.analysis.peaks import BEST_OF_N, TRAINED, Shape, at, falls, fitted

D = np.array([0.0, 0.5, 1.0, 2.0, 4.0, 8.0])


@pytest.mark.parametrize(
    ("shape", "gain"), [(TRAINED, lambda d: d * (1.5 - 0.4 * math.log(d))), (BEST_OF_N, lambda d: d * (1.5 - 0.4 * d))]
)
def test_a_curve_of_the_form_gives_back_its_parameters(shape: Shape, gain):
    gains = np.array([0.0, *(gain(d) for d in D[1:])])
    assert fitted(shape, D, gains) == pytest.approx((1.5, 0.4), abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "alpha", "beta", "d", "gain"),
    [(BEST_OF_N, 1.0, 0.1, 5.0, 2.5), (TRAINED, 1.0, 0.3, 10.312259, 3.093678)],
)
def test_the_peaks_of_the_papers_forms(shape: Shape, alpha: float, beta: float, d: float, gain: float):
    # Best-of-N: the derivative alpha - 2 beta d. RL: alpha - beta ln d - beta, so that the gain there is beta d.
    peak = shape.highest(alpha, beta)
    assert peak == pytest.approx(d, rel=1e-6)
    highest, *beside = shape.gain(np.array([peak, 0.99 * peak, 1.01 * peak]), alpha, beta)
    assert highest == pytest.approx(gain, rel=1e-6)
    assert max(beside) < highest


def test_two_places_are_too_few_for_two_parameters():
    assert all(map(math.isnan, fitted(TRAINED, D[:3], D[:3])))


def test_a_fall_is_measured_at_the_peak_of_the_other_seeds():
    gains = np.array([[0.0, 9.0, 1.0, 0.0], [0.0, 2.0, 3.0, 1.0], [0.0, 2.0, 4.0, 2.0]])
    # Means of the others: (0, 2, 3.5, 1.5), (0, 5.5, 2.5, 1), (0, 5.5, 2, 0.5): places 2, 1 and 1.
    assert falls(gains).tolist() == [1.0, 1.0, 0.0]


def test_noise_that_goes_nowhere_has_no_fall_on_average():
    noise = np.random.default_rng(0).normal(size=(3000, 3, 12))
    mean = np.mean([falls(gains).mean() for gains in noise])
    assert abs(mean) < 4 / math.sqrt(3000)  # one standard error is below 1 / sqrt(3000)
    assert np.mean([(gains.max(1) - gains[:, -1]).mean() for gains in noise]) > 1  # the peak of the seed itself would say so


def test_one_seed_has_no_others():
    assert math.isnan(falls(np.array([[0.0, 2.0, 1.0]]))[0])


def test_gains_between_places_lie_on_straight_lines_in_order_of_distance():
    d, gain = np.array([0.0, 4.0, 2.0]), np.array([0.0, 1.0, 3.0])
    assert [at(d, gain, place) for place in (1.0, 3.0)] == [1.5, 2.0]
    assert math.isnan(at(d, gain, 4.1))
