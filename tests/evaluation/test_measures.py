"""Measures of answers, against scikit-learn, SciPy and arithmetic by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef

from alignkit.data.questions import Question
from alignkit.evaluation.grading import Graded, grade
from alignkit.evaluation.measures import MEASURES, score_of
from alignkit.evaluation.scoring import ScoredQuestion
from alignkit.evaluation.tasks.task import Task
from alignkit.evaluation_settings import LOGP_MEAN, LOGP_SUM


def answers(
    scores: Sequence[Sequence[float]],
    correct: Sequence[tuple[int, ...]],
    *,
    values: Sequence[float] | None = None,
    groups: Sequence[str] | None = None,
    lengths: Sequence[Sequence[int]] | None = None,
    log_probabilities: bool = False,
) -> Graded:
    """One question a row."""
    return Graded(
        questions=tuple(
            Question(
                prompt=f"{place}",
                candidates=tuple("abcdef"[: len(row)]),
                correct=right,
                value=None if values is None else values[place],
                group="" if groups is None else groups[place],
            )
            for place, (row, right) in enumerate(zip(scores, correct, strict=True))
        ),
        scores=tuple(np.array(row, dtype=np.float64) for row in scores),
        lengths=tuple(np.array([1] * len(row) if lengths is None else lengths[place]) for place, row in enumerate(scores)),
        log_probabilities=log_probabilities,
    )


def saying(predicted: Sequence[int], gold: Sequence[int], classes: int, values: Sequence[float] | None = None) -> Graded:
    """A scorer that prefers these places."""
    rows = [[float(place == said) for place in range(classes)] for said in predicted]
    return answers(rows, [(place,) for place in gold], values=values)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking(Task):
    MEASURES: ClassVar[tuple[str, ...]] = ("accuracy", "f1")

    def to_example(self, row: Mapping[str, object]) -> Question:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Weighing(Task):
    WEIGHTS: ClassVar[Mapping[str, float]] = {"middle": 1436, "high": 3498, "absent": 10_000}

    def to_example(self, row: Mapping[str, object]) -> Question:
        raise NotImplementedError


MRPC = ([1, 1, 0, 1, 0, 0, 1, 1, 1, 0], [1, 0, 0, 1, 1, 0, 1, 1, 0, 0])
RATINGS = [0.0, 5.0, 3.8, 2.5, 1.2, 3.8, 4.75, 2.5, 0.5, 3.0]
PLACES = [0, 4, 4, 2, 2, 3, 5, 1, 1, 3]


def test_accuracy_and_f1_of_mrpc_are_those_of_scikit_learn():
    graded = saying(*MRPC, classes=2)
    assert MEASURES["f1"](graded) == pytest.approx(f1_score(MRPC[1], MRPC[0]))
    assert MEASURES["f1"](graded) == pytest.approx(8 / 11)  # 4 hits, 2 false alarms, 1 miss
    assert MEASURES["accuracy"](graded) == pytest.approx(0.7)
    assert score_of(Asking(), graded) == pytest.approx((8 / 11 + 0.7) / 2)


def test_matthews_of_cola_is_that_of_scikit_learn():
    graded = saying(*MRPC, classes=2)
    assert MEASURES["matthews"](graded) == pytest.approx(matthews_corrcoef(MRPC[1], MRPC[0]))
    assert MEASURES["matthews"](saying(MRPC[1], MRPC[1], classes=2)) == pytest.approx(1)
    assert MEASURES["matthews"](saying([1 - place for place in MRPC[1]], MRPC[1], classes=2)) == pytest.approx(-1)


def test_correlations_of_stsb_are_those_of_scipy_and_higher_places_mean_higher_ratings():
    gold = [round(value) for value in RATINGS]
    graded = saying(PLACES, gold, classes=6, values=RATINGS)
    assert MEASURES["pearson"](graded) == pytest.approx(stats.pearsonr(PLACES, RATINGS).statistic)
    assert MEASURES["spearman"](graded) == pytest.approx(stats.spearmanr(PLACES, RATINGS).statistic)
    assert MEASURES["pearson"](graded) > 0.9
    backwards = saying([5 - place for place in PLACES], gold, classes=6, values=RATINGS)
    assert MEASURES["spearman"](backwards) == pytest.approx(-MEASURES["spearman"](graded))


def test_a_scorer_that_ties_is_as_good_as_chance_and_counts_as_one_answer_elsewhere():
    graded = answers([[0.3, 0.3]] * 4, [(0,), (1,), (1,), (1,)], values=[0.0, 1, 1, 1])
    assert MEASURES["accuracy"](graded) == 0.5
    assert MEASURES["f1"](graded) == 0  # place 0 everywhere
    assert MEASURES["matthews"](graded) == 0
    assert math.isnan(MEASURES["pearson"](graded))
    assert math.isnan(MEASURES["spearman"](graded))


def test_measures_are_undefined_where_questions_are_not_of_their_kind():
    three = saying([0, 1, 2], [0, 1, 1], classes=3)
    undefined = {name for name, measure in MEASURES.items() if math.isnan(measure(three))}
    assert undefined == {"f1", "pearson", "spearman", "mc2", "easy", "normal", "hard", "rm_bench_average"}
    one_missing = answers([[0, 1]] * 3, [(0,)] * 3)
    assert math.isnan(MEASURES["pearson"](one_missing))


@pytest.mark.parametrize("name", MEASURES)
def test_of_no_questions_nothing_is_measured(name: str):
    assert math.isnan(MEASURES[name](answers([], [], log_probabilities=True)))


def test_mc2_is_the_share_of_probability_that_right_candidates_have():
    first, second = np.log([0.2, 0.3, 0.5]) - 2000, np.log([0.08, 0.02])  # only their ratios matter, however unlikely all are
    graded = answers([first.tolist(), second.tolist()], [(0, 2), (1,)], log_probabilities=True)
    assert MEASURES["mc2"](graded) == pytest.approx((0.7 + 0.2) / 2, rel=1e-9)
    assert MEASURES["mc2"](graded.take([1])) == pytest.approx(0.2)
    assert math.isnan(MEASURES["mc2"](answers([first.tolist(), second.tolist()], [(0, 2), (1,)])))


def test_only_summed_log_probabilities_are_graded_as_such():
    question = Question(prompt="", candidates=("a", "b"), correct=(0,))
    said = ScoredQuestion(key=0, scores={name: (math.log(0.3), math.log(0.1)) for name in (LOGP_SUM, LOGP_MEAN, "dph")}, lengths=(2, 1))
    values = {name: MEASURES["mc2"](grade("truthfulqa_mc2", [question], [said], name)) for name in said.scores}
    assert values == pytest.approx({LOGP_SUM: 0.75, LOGP_MEAN: math.nan, "dph": math.nan}, nan_ok=True)


def test_rm_bench_sorts_comparisons_by_whose_style_is_fancier():
    # Right answers score 3, 1, 5 in their styles, wrong ones 2, 4, 1: the rows of M are (1, 0, 1), (0, 0, 1/2), (1, 1, 1).
    graded = answers([[3, 1, 5, 2, 4, 1]], [(0, 1, 2)])
    assert MEASURES["easy"](graded) == pytest.approx((0 + 1 + 1) / 3)  # M10 M20 M21: the right one is the fancier
    assert MEASURES["normal"](graded) == pytest.approx((1 + 0 + 1) / 3)
    assert MEASURES["hard"](graded) == pytest.approx((0 + 1 + 0.5) / 3)  # M01 M02 M12
    assert MEASURES["rm_bench_average"](graded) == pytest.approx(5.5 / 9)


def test_a_scorer_that_likes_style_finds_easy_easy_and_hard_hard():
    graded = answers([[0, 1, 2, 0, 1, 2]] * 3, [(0, 1, 2)] * 3)
    assert [MEASURES[name](graded) for name in ("easy", "normal", "hard")] == [1.0, 0.5, 0.0]


def test_a_scorer_that_likes_length_is_worth_half_at_equal_length():
    generator = np.random.default_rng(0)
    lengths = np.stack([generator.integers(60, 260, 2000), generator.integers(20, 220, 2000)], axis=1)
    graded = answers(lengths.tolist(), [(0,)] * 2000, lengths=lengths.tolist())
    longer = (lengths[:, 0] > lengths[:, 1]).mean() + 0.5 * (lengths[:, 0] == lengths[:, 1]).mean()
    assert MEASURES["accuracy"](graded) == pytest.approx(longer)
    assert longer > 0.65
    assert MEASURES["length_controlled"](graded) == pytest.approx(0.5, abs=0.1)


def test_under_length_control_each_question_counts_once_however_many_pairs_it_has():
    # All lengths differ alike, so that shares come out plain: the first question wins 2 of 6 pairs, the second its only one.
    graded = answers([[1, 0, 0, 0, 1], [1, 0]], [(0, 1), (0,)], lengths=[[2, 2, 1, 1, 1], [2, 1]])
    first = (1 + 1 + 0.5 + 0.5 + 0.5 + 0) / 6  # 1 against 0, 0, 1 and 0 against 0, 0, 1
    assert MEASURES["length_controlled"](graded) == pytest.approx((first + 1) / 2)
    nothing_wrong = answers([[1, 0]], [(0, 1)])
    assert math.isnan(MEASURES["length_controlled"](nothing_wrong))


def test_a_score_is_undefined_where_one_of_its_measures_is():
    assert math.isnan(score_of(Asking(), saying([0, 1, 2], [0, 1, 1], classes=3)))


def test_with_weights_a_score_is_the_weighted_mean_of_the_groups_that_are_there():
    groups = ["high", "middle", "high", "other", "high", "middle"]
    graded = answers([[1, 0]] * 6, [(0,), (0,), (1,), (1,), (1,), (1,)], groups=groups)
    assert score_of(Weighing(), graded) == pytest.approx((1436 * 1 / 2 + 3498 * 1 / 3) / (1436 + 3498))
    assert score_of(Weighing(), graded.take([0, 2])) == 0.5
    assert score_of(Weighing(), graded.take([3])) == 0  # no group with a weight: all questions count
    assert math.isnan(score_of(Weighing(), graded.take([])))
