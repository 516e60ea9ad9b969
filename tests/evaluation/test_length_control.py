"""Length control, against scikit-learn's logistic regression and where the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from alignkit.evaluation.grading import Floats, Integers
from alignkit.evaluation.length_control import intercepts, length_controlled
from alignkit.evaluation.statistics import plain


def controlled(preferred: Floats, differences: Integers) -> float:
    return plain(length_controlled(preferred, differences), len(preferred))


def of_scikit_learn(preferred: Floats, differences: Integers, weights: Floats | None = None) -> float:
    """Ties as half a win and half a loss; the penalty of its `C` is on the slope alone."""
    counts = np.ones(len(preferred)) if weights is None else weights
    mean = np.average(differences, weights=counts)
    spread = math.sqrt(np.average((differences - mean) ** 2, weights=counts))
    features = np.tanh(np.tile(differences, 2) / spread)[:, None]
    outcomes = np.repeat([1, 0], len(preferred))
    shares = np.concatenate([preferred * counts, (1 - preferred) * counts])
    model = LogisticRegression(C=100, tol=1e-10, max_iter=10_000).fit(features, outcomes, sample_weight=shares)
    return float(expit(model.intercept_[0]))


def pairs(seed: int, count: int, worth: float, effect: float, ties: float = 0.1) -> tuple[Floats, Integers]:
    """Right answers are longer on average, and win by what they are worth and by their length."""
    generator = np.random.default_rng(seed)
    differences = np.round(generator.normal(40, 80, count)).astype(np.int64)
    wins = generator.random(count) < expit(worth + effect * np.tanh(differences / differences.std()))
    return np.where(generator.random(count) < ties, 0.5, wins), differences


@pytest.mark.parametrize(("count", "worth", "effect"), [(30, 0.3, 1.0), (300, 1.0, -2.0), (300, 0.0, 6.0), (1000, 3.0, 0.5)])
def test_the_regression_is_that_of_scikit_learn_under_weights_too(count: int, worth: float, effect: float):
    preferred, differences = pairs(0, count, worth, effect)
    assert controlled(preferred, differences) == pytest.approx(of_scikit_learn(preferred, differences), abs=1e-6)
    weights = np.random.default_rng(1).multinomial(count, np.full(count, 1 / count), size=3).astype(np.float64)
    expected = [of_scikit_learn(preferred, differences, row) for row in weights]
    assert length_controlled(preferred, differences)(weights) == pytest.approx(expected, abs=1e-6)


def test_length_alone_is_worth_nothing_at_equal_length():
    differences = np.round(np.random.default_rng(2).normal(60, 80, 2000)).astype(np.int64)
    longer = np.where(differences == 0, 0.5, differences > 0)
    assert longer.mean() > 0.75  # what plain accuracy makes of a scorer that prefers whatever is longer
    # Lengths are whole numbers: between one token more and one less the data leave the regression some freedom.
    assert controlled(longer, differences) == pytest.approx(0.5, abs=0.1)


def test_worth_is_found_again_beside_an_effect_of_length():
    preferred, differences = pairs(3, 20_000, 1.0, 2.0, ties=0)
    assert controlled(preferred, differences) == pytest.approx(expit(1.0), abs=0.015)
    assert preferred.mean() > expit(1.0) + 0.03  # right answers are longer, and that helps them


def test_pairs_that_length_tells_apart_without_a_gap_have_a_finite_answer():
    differences = np.array([50] * 80 + [-50] * 20)
    preferred = (differences > 0).astype(np.float64)
    assert controlled(preferred, differences) == pytest.approx(of_scikit_learn(preferred, differences), abs=1e-6)
    assert 0 < controlled(preferred, differences) < 1


def test_without_an_effect_of_length_plain_accuracy_comes_out():
    differences = np.array([10, -10] * 10)
    assert controlled(np.array([1.0, 1.0] * 7 + [0.0, 0.0] * 3), differences) == pytest.approx(0.7, abs=1e-9)


@pytest.mark.parametrize("differences", [[0, 0, 0, 0], [5, 5, 5, 5], [-3, -3, -3, -3]])
def test_where_lengths_tell_nothing_plain_accuracy_comes_out(differences: list[int]):
    assert controlled(np.array([1.0, 0.5, 0.0, 1.0]), np.array(differences)) == pytest.approx(0.625, abs=1e-12)


@pytest.mark.parametrize(("outcome", "value"), [(1.0, 1.0), (0.0, 0.0), (0.5, 0.5)])
def test_all_alike_is_what_all_are(outcome: float, value: float):
    assert controlled(np.full(5, outcome), np.array([1, 2, -30, 4, 500])) == pytest.approx(value, abs=1e-12)


def test_turning_every_pair_round_turns_the_answer_round():
    preferred, differences = pairs(4, 200, 0.5, 1.0)
    assert controlled(1 - preferred, -differences) == pytest.approx(1 - controlled(preferred, differences), abs=1e-9)


def test_no_pairs_have_no_answer():
    with_pairs = length_controlled(np.array([1.0, 0.0]), np.array([3, -4]))
    assert math.isnan(with_pairs(np.zeros((1, 2)))[0])


def test_at_the_answer_no_step_gains():
    generator = np.random.default_rng(5)
    wins, losses = (np.floor(generator.exponential(10.0 ** generator.uniform(-1, 4, (40, 1)), (40, 6))) for _ in range(2))
    wins[:, 0] += 1
    losses[:, 3] += 1
    features = np.tanh(generator.normal(size=(40, 6)) * 3 + generator.normal(size=(40, 1)))
    found = intercepts(wins, losses, features)
    for a, win, loss, feature in zip(found, wins, losses, features, strict=True):
        # Of a, the best b solves its own equation, in one variable; there the equation of a must hold too.
        low, high = -500.0, 500.0
        for _ in range(200):
            b = (low + high) / 2
            errors = win - (win + loss) * expit(a + b * feature)
            low, high = (b, high) if (errors * feature).sum() > 0.01 * b else (low, b)
        assert errors.sum() == pytest.approx(0, abs=1e-6 * (win + loss).sum())
