"""Statistics under weights, against scikit-learn and SciPy."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from alignkit.evaluation.grading import Floats, Integers
from alignkit.evaluation.statistics import Levels, Statistic, difference, f1, matthews, mean, mean_of, pearson, plain, spearman

QUESTIONS = 60


def places(seed: int, classes: int) -> tuple[Integers, Integers]:
    """Answers that are right more often than by chance."""
    generator = np.random.default_rng(seed)
    gold = generator.integers(classes, size=QUESTIONS)
    predicted = np.where(generator.random(QUESTIONS) < 0.5, gold, generator.integers(classes, size=QUESTIONS))
    return predicted, gold


def counts(seed: int, resamples: int = 5) -> Floats:
    """[B, Q] weights of a bootstrap."""
    return np.random.default_rng(seed).multinomial(QUESTIONS, np.full(QUESTIONS, 1 / QUESTIONS), size=resamples).astype(np.float64)


def scipy_correlation(name: str, first: Floats, second: Floats) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        result = stats.pearsonr(first, second) if name == "pearson" else stats.spearmanr(first, second)
    return float(result.statistic)


@pytest.mark.parametrize("seed", range(5))
def test_f1_is_that_of_scikit_learn_under_weights_too(seed: int):
    predicted, gold = places(seed, 2)
    assert plain(f1(predicted, gold), QUESTIONS) == pytest.approx(f1_score(gold, predicted), abs=1e-12)
    weights = counts(seed)
    assert f1(predicted, gold)(weights) == pytest.approx([f1_score(gold, predicted, sample_weight=row) for row in weights], abs=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("seed", range(3))
def test_matthews_is_that_of_scikit_learn_under_weights_too(classes: int, seed: int):
    predicted, gold = places(seed, classes)
    assert plain(matthews(predicted, gold), QUESTIONS) == pytest.approx(matthews_corrcoef(gold, predicted), abs=1e-12)
    weights = counts(seed)
    expected = [matthews_corrcoef(gold, predicted, sample_weight=row) for row in weights]
    assert matthews(predicted, gold)(weights) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["pearson", "spearman"])
@pytest.mark.parametrize("seed", range(5))
def test_correlations_are_those_of_scipy_on_the_questions_that_were_drawn(name: str, seed: int):
    predicted, gold = places(seed, 6)
    # Ties in both: places are few, and ratings come in fifths.
    x, y = predicted.astype(np.float64), np.round(5 * (gold + np.random.default_rng(seed).normal(size=QUESTIONS))) / 5
    statistic = {"pearson": pearson, "spearman": spearman}[name](x, y)
    assert plain(statistic, QUESTIONS) == pytest.approx(scipy_correlation(name, x, y), abs=1e-12)
    weights = counts(seed)
    drawn = [np.repeat(np.arange(QUESTIONS), row.astype(np.int64)) for row in weights]
    assert statistic(weights) == pytest.approx([scipy_correlation(name, x[row], y[row]) for row in drawn], abs=1e-12)


@pytest.mark.parametrize(
    ("predicted", "gold"),
    [
        pytest.param([0, 0, 0, 0], [0, 1, 1, 0], id="always 0"),
        pytest.param([1, 1, 1, 1], [0, 1, 1, 0], id="always 1"),
        pytest.param([0, 1, 1, 0], [0, 0, 0, 0], id="all questions are 0"),
        pytest.param([0, 0, 0, 0], [0, 0, 0, 0], id="both"),
        pytest.param([0, 1, 1, 0], [0, 1, 1, 0], id="all right"),
        pytest.param([1, 0, 0, 1], [0, 1, 1, 0], id="all wrong"),
        pytest.param([1], [1], id="one question"),
    ],
)
def test_degenerate_predictions_are_what_scikit_learn_and_scipy_make_of_them(predicted: list[int], gold: list[int]):
    said, right = np.array(predicted), np.array(gold)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A single label was found")
        expected = f1_score(right, said, zero_division=0), matthews_corrcoef(right, said)
    assert plain(f1(said, right), len(gold)) == pytest.approx(expected[0], abs=1e-12)
    assert plain(matthews(said, right), len(gold)) == pytest.approx(expected[1], abs=1e-12)
    if len(gold) > 1:  # SciPy refuses one
        x, y = said.astype(np.float64), right.astype(np.float64)
        for name, statistic in (("pearson", pearson(x, y)), ("spearman", spearman(x, y))):
            assert plain(statistic, len(gold)) == pytest.approx(scipy_correlation(name, x, y), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("statistic", [pearson, spearman])
def test_a_correlation_with_a_constant_is_undefined_whatever_the_constant(statistic: Callable[[Floats, Floats], Statistic]):
    # A third has no exact binary form, so that the variance of 1/3, 1/3, 1/3 is only nearly 0.
    first, second = np.full(7, 1 / 3), np.arange(7.0)
    assert math.isnan(plain(statistic(first, second), 7))
    assert math.isnan(plain(statistic(second, first), 7))


def test_far_from_zero_correlations_keep_their_digits():
    x, y = np.array([1.0, 2, 3, 4]) + 1e8, np.array([1.0, 3, 2, 4])
    assert plain(pearson(x, y), 4) == pytest.approx(0.8, abs=1e-12)  # sum of products 4 over sqrt(5 5)


def test_levels_are_the_numbers_that_a_variable_takes():
    levels = Levels.of(np.array([3.0, 1, 3, 2, 1]))
    assert levels.values.tolist() == [1, 2, 3]
    assert levels.sums(np.array([[1.0, 10, 100, 1000, 10000]])).tolist() == [[10010, 1000, 101]]


def test_a_mean_of_statistics_is_undefined_where_one_of_them_is():
    sure = mean(np.array([0.0, 1.0]))
    x = np.array([0.0, 1.0])
    both = mean_of([sure, pearson(x, x)])
    values = both(np.array([[1.0, 1.0], [2.0, 0.0]]))  # the second draws one question twice: no correlation
    assert values[0] == pytest.approx(0.75)
    assert math.isnan(values[1])


def test_a_difference_is_of_the_same_resample():
    first, second = mean(np.array([1.0, 0.0])), mean(np.array([0.0, 0.5]))
    assert difference(first, second)(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 3.0]])) == pytest.approx([1, -0.5, (1 - 1.5) / 4])


@pytest.mark.parametrize("statistic", [mean(np.zeros(0)), f1(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))])
def test_of_no_questions_nothing_is_known(statistic: Statistic):
    assert math.isnan(plain(statistic, 0))
