"""Comparisons on the same questions, by hand, against SciPy, and turned round."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from scipy import stats

from alignkit.data.questions import Question
from alignkit.errors import UserError
from alignkit.evaluation.comparison import compare, mcnemar, measured_difference
from alignkit.evaluation.grading import Graded
from alignkit.evaluation.intervals import bootstrap
from alignkit.evaluation.results import measured
from alignkit.evaluation.statistics import difference, mean
from alignkit.evaluation.tasks.task import Task


def earning(credits: Sequence[float], groups: Sequence[str] | None = None, prompt: str = "") -> Graded:
    """A scorer that earns these credits; the right place is 0 and 1 by turns."""
    names = [""] * len(credits) if groups is None else groups
    return Graded(
        questions=tuple(
            Question(prompt=f"{prompt}{place}", candidates=("a", "b"), correct=(place % 2,), group=name) for place, name in enumerate(names)
        ),
        scores=tuple(np.where(np.arange(2) == place % 2, credit, 0.5) for place, credit in enumerate(credits)),
        lengths=tuple(np.array([1, 1]) for _ in credits),
    )


def related(seed: int, count: int = 400, shift: float = 0.3) -> tuple[list[float], list[float]]:
    """Credits of two scorers that find the same questions hard, the second the more of them."""
    generator = np.random.default_rng(seed)
    ease = generator.normal(size=count)
    first = ease + 0.3 * generator.normal(size=count) > -0.5
    second = ease + 0.3 * generator.normal(size=count) > -0.5 + shift
    return first.astype(float).tolist(), second.astype(float).tolist()


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking(Task):
    BESIDE: ClassVar[tuple[str, ...]] = ("matthews",)

    def to_example(self, row: Mapping[str, object]) -> Question:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Several(Task):
    MEASURES: ClassVar[tuple[str, ...]] = ("accuracy", "f1")

    def to_example(self, row: Mapping[str, object]) -> Question:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighing(Task):
    WEIGHTS: ClassVar[Mapping[str, float]] = {"easy": 3.0, "hard": 1.0}

    def to_example(self, row: Mapping[str, object]) -> Question:
        raise NotImplementedError


def test_mcnemar_by_hand():
    # 8 against 2 of 10 that part, and 5 that do not: 2 (C(10,0) + C(10,1) + C(10,2)) / 2^10 = 112 / 1024.
    first = earning([1] * 8 + [0] * 2 + [1, 1, 0, 0, 0.5])
    second = earning([0] * 8 + [1] * 2 + [1, 1, 0, 0, 0.5])
    test = mcnemar(first, second)
    assert (test.first_better, test.second_better) == (8, 2)
    assert test.p_value == pytest.approx(0.109375)


@pytest.mark.parametrize("seed", range(3))
def test_mcnemar_is_the_sign_test_of_scipy(seed: int):
    first, second = related(seed)
    more = sum(one > other for one, other in zip(first, second, strict=True))
    less = sum(one < other for one, other in zip(first, second, strict=True))
    assert mcnemar(earning(first), earning(second)).p_value == pytest.approx(stats.binomtest(more, more + less, 0.5).pvalue)


def test_half_a_credit_more_is_more():
    test = mcnemar(earning([1, 0.5, 0.5, 0]), earning([0.5, 0, 1, 0]))
    assert (test.first_better, test.second_better, test.p_value) == (2, 1, 1.0)


def test_a_difference_is_that_of_the_measures():
    first, second = related(0)
    interval = measured_difference("accuracy", earning(first), earning(second), resamples=500, seed=0)
    assert interval.value == pytest.approx(np.mean(first) - np.mean(second))
    assert 0 < interval.low < interval.value < interval.high


def test_swapping_the_two_negates_everything():
    first, second = (earning(credits) for credits in related(1))
    there, back = (compare(Several(), *both, resamples=300, seed=0) for both in ((first, second), (second, first)))
    for name in ("accuracy", "f1"):
        ours, theirs = there.measures[name], back.measures[name]
        assert (ours.value, ours.low, ours.high) == pytest.approx((-theirs.value, -theirs.high, -theirs.low), abs=1e-9)
    assert there.score.value == pytest.approx(-back.score.value)
    assert (there.mcnemar.first_better, there.mcnemar.p_value) == (back.mcnemar.second_better, pytest.approx(back.mcnemar.p_value))


def test_pairing_tells_what_two_intervals_do_not():
    first, second = (earning(credits) for credits in related(2, shift=0.15))
    alone = [measured("accuracy", graded, resamples=300, seed=0) for graded in (first, second)]
    assert alone[0].low < alone[1].high  # the two overlap
    assert measured_difference("accuracy", first, second, resamples=300, seed=0).low > 0


def test_paired_intervals_hold_the_true_difference_about_as_often_as_they_say():
    # P(ease + noise > bar) with variance 1.09.
    truth = stats.norm.cdf(0.5 / math.sqrt(1.09)) - stats.norm.cdf(0.2 / math.sqrt(1.09))
    held = 0
    for repetition in range(300):
        first, second = (mean(np.array(credits)) for credits in related(100 + repetition, count=120))
        interval = bootstrap(difference(first, second), 120, resamples=300, seed=repetition)
        held += interval.low <= truth <= interval.high
    assert 0.91 < held / 300 < 0.985


def test_a_scorer_differs_from_itself_by_nothing():
    first = earning(related(3)[0])
    comparison = compare(Asking(), first, first, resamples=200, seed=0)
    assert comparison.score.value == 0
    assert not comparison.score.is_known
    assert (comparison.mcnemar.first_better, comparison.mcnemar.second_better, comparison.mcnemar.p_value) == (0, 0, 1.0)


def test_with_weights_the_difference_is_that_of_the_scores():
    groups = ["easy", "hard"] * 20
    first, second = earning([1, 0.5] * 20, groups), earning([1, 0, 0, 1] * 10, groups)
    # easy: 1 against 1/2; hard: 1/2 against 1/2
    comparison = compare(Weighing(), first, second, resamples=300, seed=0)
    assert comparison.score.value == pytest.approx((3 * 0.5 + 1 * 0) / 4)
    assert comparison.measures["accuracy"].value == pytest.approx(0.25)
    easy = measured_difference("accuracy", *(graded.take(range(0, 40, 2)) for graded in (first, second)), resamples=300, seed=0)
    assert comparison.score.high - comparison.score.value > 0.75 * (easy.high - easy.value)  # the other group adds to it


def test_a_comparison_is_plain_values():
    first, second = (earning(credits) for credits in related(4, count=30))
    tree = json.loads(json.dumps(compare(Asking(), first, second, resamples=200, seed=0).to_json(), allow_nan=False))
    assert tree["questions"] == 30
    assert set(tree["measures"]) == {"accuracy", "matthews"}
    assert tree["score"] == tree["measures"]["accuracy"]
    assert tree["measures"]["matthews"]["low"] < tree["measures"]["matthews"]["value"]


@pytest.mark.parametrize("other", [earning([1, 0]), earning([1, 0, 1], prompt="another ")])
def test_answers_to_other_questions_are_refused(other: Graded):
    own = earning([1, 0, 1])
    for refuse in (
        lambda: mcnemar(own, other),
        lambda: measured_difference("accuracy", own, other, resamples=200, seed=0),
        lambda: compare(Asking(), own, other, resamples=200, seed=0),
    ):
        with pytest.raises(UserError, match=r"(Answers to 3 questions .* 2|question 1 of 3 is not the same).*evaluation\.limit"):
            refuse()
