"""What the answers to a benchmark are worth, by the measures that benchmarks define.

Q questions   K candidates of a question   P pairs of a right and a wrong candidate
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

import numpy as np

from alignkit.evaluation import statistics
from alignkit.evaluation.grading import Floats, Graded, Integers
from alignkit.evaluation.length_control import length_controlled as length_controlled_statistic
from alignkit.evaluation.statistics import Statistic, mean, mean_of, plain
from alignkit.evaluation.tasks.task import Task

STYLES = 3
"""Of RM-Bench: concise, detailed, detailed with markdown."""
STYLES_RIGHT = tuple(range(STYLES))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One number of the answers, higher is better, NaN where it is undefined for them."""

    statistic: Callable[[Graded], Statistic]
    """The number as a statistic of the questions, which a bootstrap can ask again and again."""
    proportion: bool = False
    """Whether it is the mean of credits that are 0 or 1 but for ties: Wilson's interval holds for it."""

    def __call__(self, graded: Graded) -> float:
        return plain(self.statistic(graded), len(graded.questions))


def undefined(weights: Floats) -> Floats:
    """[B] NaN."""
    return np.full(len(weights), math.nan)


def accuracy(graded: Graded) -> Statistic:
    """Share of questions whose best-scored candidate is right, in [0, 1]; candidates that share the best score share the credit."""
    return mean(graded.credits)


def f1(graded: Graded) -> Statistic:
    """F1 of place 1 ("yes" in MRPC and QQP), in [0, 1]; 0 where neither answers nor questions have it. For two candidates only.

    Of two equal scores the first place is predicted, here and in the correlations: they need one answer.
    """
    if any(len(scores) != 2 for scores in graded.scores):
        return undefined
    return statistics.f1(graded.predicted, graded.gold)


def matthews(graded: Graded) -> Statistic:
    """Matthews correlation of predicted and right places, in [-1, 1]; 0 for the same prediction everywhere, as CoLA's authors count it."""
    return statistics.matthews(graded.predicted, graded.gold)


def pearson(graded: Graded) -> Statistic:
    """Pearson's correlation of predicted places with the questions' values, in [-1, 1].

    Higher places say higher values: STS-B's candidates "0" to "5" stand in this order. Undefined where all predictions or all values are
    the same, or a question has no value.
    """
    values = graded.values
    return undefined if np.isnan(values).any() or not len(values) else statistics.pearson(graded.predicted.astype(np.float64), values)


def spearman(graded: Graded) -> Statistic:
    """Spearman's correlation of predicted places with the questions' values, in [-1, 1]; equal numbers share ranks. Else as `pearson`."""
    values = graded.values
    return undefined if np.isnan(values).any() or not len(values) else statistics.spearman(graded.predicted.astype(np.float64), values)


def mc2(graded: Graded) -> Statistic:
    """TruthfulQA's MC2, in [0, 1]: the share of the candidates' probability that right ones have, over questions.

        sum_right exp(score) / sum_all exp(score)      Lin et al. 2022 (arXiv:2109.07958)

    Scores must be summed log-probabilities: a head's scores have no such scale, and lengths bend those that are divided by them. Undefined
    for any others.
    """
    if not graded.log_probabilities:
        return undefined
    shares = []
    for question, scores in zip(graded.questions, graded.scores, strict=True):
        masses = np.exp(scores - scores.max())
        shares.append(masses[np.unique(question.correct)].sum() / masses.sum())
    return mean(np.array(shares, dtype=np.float64))


def easy(graded: Graded) -> Statistic:
    """RM-Bench where the right answer is in the fancier style, in [0, 1]. See `rm_bench`."""
    return rm_bench(graded, lambda right, wrong: right > wrong)


def normal(graded: Graded) -> Statistic:
    """RM-Bench where both answers are in the same style, in [0, 1]. See `rm_bench`."""
    return rm_bench(graded, lambda right, wrong: right == wrong)


def hard(graded: Graded) -> Statistic:
    """RM-Bench where the wrong answer is in the fancier style, in [0, 1]. See `rm_bench`."""
    return rm_bench(graded, lambda right, wrong: right < wrong)


def rm_bench_average(graded: Graded) -> Statistic:
    """The mean of `easy`, `normal` and `hard`, in [0, 1]: each of them is three of the nine comparisons."""
    return mean_of([easy(graded), normal(graded), hard(graded)])


def rm_bench(graded: Graded, compared: Callable[[int, int], bool]) -> Statistic:
    """Of a question's nine comparisons M[i, j] = (right answer in style i scored above wrong one in style j), the mean of some.

    Styles go from concise to fancy. Candidates are the right answers in each style, then the wrong ones: undefined for other questions.
    A tie is one half, where the authors' `compute_accuracy` counts it as wrong. Liu et al. 2025 (arXiv:2410.16184).
    """
    places = range(STYLES)
    chosen = np.array([[compared(right, wrong) for wrong in places] for right in places])
    if any(len(scores) != 2 * STYLES for scores in graded.scores) or any(one.correct != STYLES_RIGHT for one in graded.questions):
        return undefined
    table = np.stack([*graded.scores]) if graded.scores else np.zeros((0, 2 * STYLES))  # [Q, 6]
    right, wrong = table[:, :STYLES, None], table[:, None, STYLES:]
    wins = (right > wrong) + 0.5 * (right == wrong)  # [Q, 3, 3]
    return mean(wins[:, chosen].mean(axis=1))


def length_controlled(graded: Graded) -> Statistic:
    """How often a right candidate would be scored above a wrong one if both had the same length, in [0, 1].

    Each question counts once: its pairs of a right and a wrong candidate share its weight, a tie is half a win. Regression and what is
    undefined: `alignkit.evaluation.length_control` (arXiv:2404.04475).
    """
    preferred, differences, owners, shares = pairs(graded)
    if not len(preferred):
        return undefined
    controlled = length_controlled_statistic(preferred, differences)
    return lambda weights: controlled(weights[:, owners] * shares)


def pairs(graded: Graded) -> tuple[Floats, Integers, Integers, Floats]:
    """All pairs of a right and a wrong candidate of one question.

    Returns:
        [P] whether the right one is scored higher, one half for a tie; [P] by how many tokens it is longer; [P] its question; [P] one over
        the number of that question's pairs.
    """
    found: list[Floats] = [np.zeros((4, 0))]
    for place, (question, scores, lengths) in enumerate(zip(graded.questions, graded.scores, graded.lengths, strict=True)):
        right = np.isin(np.arange(len(scores)), question.correct)
        gaps = (scores[right][:, None] - scores[~right]).ravel()
        longer = (lengths[right][:, None] - lengths[~right]).ravel()
        count = len(gaps)
        rows = ((gaps > 0) + 0.5 * (gaps == 0), longer, np.full(count, place), np.full(count, 1 / max(1, count)))
        found.append(np.array(rows, dtype=np.float64))
    preferred, differences, owners, shares = np.concatenate(found, axis=1)
    return preferred, differences.astype(np.int64), owners.astype(np.int64), shares


MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        "accuracy": Measure(statistic=accuracy, proportion=True),
        "f1": Measure(statistic=f1),
        "matthews": Measure(statistic=matthews),
        "pearson": Measure(statistic=pearson),
        "spearman": Measure(statistic=spearman),
        "mc2": Measure(statistic=mc2),
        "easy": Measure(statistic=easy),
        "normal": Measure(statistic=normal),
        "hard": Measure(statistic=hard),
        "rm_bench_average": Measure(statistic=rm_bench_average),
        "length_controlled": Measure(statistic=length_controlled),
    }
)
"""By the name that tasks ask for them: `Task.MEASURES` and `Task.BESIDE`."""


def score_statistic(task: Task, graded: Graded) -> Statistic:
    """The mean of the task's `MEASURES` over questions that all count the same; NaN where one of them is."""
    return mean_of([MEASURES[name].statistic(graded) for name in task.MEASURES])


def score_of(task: Task, graded: Graded) -> float:
    """The task's score: the mean of its `MEASURES`, or with `WEIGHTS` the weighted mean of that over groups. NaN where one of them is."""
    groups = places_of_groups(graded)
    weights = weights_of_groups(task, groups)
    if not weights:
        return plain(score_statistic(task, graded), len(graded.questions))
    scores = [weight * plain(score_statistic(task, graded.take(groups[name])), len(groups[name])) for name, weight in weights.items()]
    return math.fsum(scores) / math.fsum(weights.values())


def places_of_groups(graded: Graded) -> Mapping[str, Integers]:
    """The questions of each group, in order of the first of them."""
    groups = np.array(graded.groups, dtype=np.str_)
    return {name: np.flatnonzero(groups == name) for name in dict.fromkeys(graded.groups)}


def weights_of_groups(task: Task, groups: Collection[str]) -> Mapping[str, float]:
    """`WEIGHTS` of the groups that are there; other groups do not count. Empty where none has one: then all questions count the same."""
    return {name: task.WEIGHTS[name] for name in groups if name in task.WEIGHTS}
