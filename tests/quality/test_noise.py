"""Estimates of how many labels are wrong, on worlds where that is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit, logit

from alignkit.data.sources.reviews import Reviews
from alignkit.quality.comparisons import comparisons
from alignkit.quality.noise import confident_rate, mistake_rate, noise_of, out_of_fold


def reviews(noise: float, pairs: int = 500, seed: int = 0):
    world = Reviews(pairs=pairs, answers=2, noise=noise, length_bias=0.0, prompts="usual", validation_prompts="usual", world_seed=seed)
    return comparisons(world.train())


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3])
def test_the_share_of_flipped_labels_is_found_in_margins_that_obey_the_formula(rate):
    generator = np.random.default_rng(3)
    margins = generator.normal(0, 4, 10_000)  # of the model; labels follow it with slope 1
    labels = (generator.random(len(margins)) < expit(margins)) ^ (generator.random(len(margins)) < rate)
    found = mistake_rate(np.where(labels, margins, -margins), independent=len(margins))
    assert found.value == pytest.approx(rate, abs=0.02)
    assert found.low <= rate + 1e-9 <= found.high + 0.005


def test_a_model_that_is_sure_of_nothing_leaves_a_wide_interval():
    generator = np.random.default_rng(4)
    margins = np.abs(generator.normal(0, 0.2, 500)) * np.where(generator.random(500) < 0.6, 1, -1)
    found = mistake_rate(margins, independent=500)
    assert found.high - found.low > 0.25


def test_comparisons_of_few_prompts_make_nothing_surer():
    generator = np.random.default_rng(5)
    sure = np.abs(generator.normal(0, 4, 2000))
    margins = np.where(generator.random(2000) < 0.1 + 0.8 * expit(sure), sure, -sure)
    many, few = (mistake_rate(margins, independent=count) for count in (2000, 200))
    assert few.value == pytest.approx(many.value)
    assert few.high - few.low > 2.5 * (many.high - many.low)


def test_confident_learning_counts_the_joint_by_hand():
    chances = np.array([0.9, 0.8, 0.7, 0.1])  # mean 0.625: three are above it; of the others' only 1 - 0.1
    assert confident_rate(logit(chances)) == pytest.approx(1 / 4)


def test_clean_labels_have_no_mistakes_and_flipped_ones_have():
    clean, noisy = (noise_of(reviews(noise)) for noise in (0.0, 0.2))
    truth = np.mean([one.chosen != other.chosen for one, other in zip(reviews(0.2), reviews(0.0), strict=True)])
    assert clean.tells
    assert noisy.tells
    assert clean.rate.high < 0.06
    assert noisy.rate.low <= truth <= noisy.rate.high
    assert noisy.rate.value > clean.rate.high
    assert noisy.confident > clean.confident


def test_labels_at_random_tell_nothing():
    found = noise_of(reviews(0.5))
    assert not found.tells
    assert math.isnan(found.rate.value)
    assert math.isnan(found.confident)


def test_too_few_prompts_tell_nothing():
    found = noise_of(reviews(0.0, pairs=20))
    assert (found.tells, len(found.margins), found.prompts) == (False, 0, 20)


def test_no_label_has_a_say_in_its_own_margin():
    """Labels that are opposed within each prompt cannot be predicted; a model that had seen one of them would think the other wrong."""
    found = reviews(0.0, pairs=100)
    chosen, rejected, prompts = [one.chosen for one in found], [one.rejected for one in found], np.array([one.prompt for one in found])
    margins = out_of_fold(chosen + rejected, rejected + chosen, np.concatenate([prompts, prompts]))
    assert margins[:100] == pytest.approx(-margins[100:])
    assert np.abs(margins).max() < 0.2
