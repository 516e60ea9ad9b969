"""Whether one scorer or model answers the same questions better than another: differences question by question.

Two intervals that overlap say little about a difference: answers to the same questions rise and fall together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy.stats import binomtest  # type: ignore[import-untyped]

from alignkit.errors import UserError
from alignkit.evaluation.grading import Graded, Integers
from alignkit.evaluation.intervals import Interval, bootstrap, weighted_mean
from alignkit.evaluation.measures import MEASURES, places_of_groups, score_statistic, weights_of_groups
from alignkit.evaluation.statistics import difference
from alignkit.evaluation.tasks.task import Task


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class McNemar:
    """The questions that two scorers do not answer equally well."""

    first_better: int
    second_better: int
    p_value: float
    """How often questions on which both are equally good would part at least as unevenly: exact, two-sided. 1 where they never part."""

    def to_json(self) -> dict[str, float | int]:
        """By field."""
        return {"first_better": self.first_better, "second_better": self.second_better, "p_value": self.p_value}


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The first less the second."""

    questions: int
    measures: Mapping[str, Interval]
    """Differences of `Task.MEASURES` and `Task.BESIDE`, over all questions alike."""
    score: Interval
    """The difference of the task's score."""
    mcnemar: McNemar

    def to_json(self) -> dict[str, object]:
        """As a tree of plain values, null for NaN."""
        return {
            "questions": self.questions,
            "score": self.score.to_json(),
            "measures": {name: interval.to_json() for name, interval in self.measures.items()},
            "mcnemar": self.mcnemar.to_json(),
        }


def compare(task: Task, first: Graded, second: Graded, *, resamples: int, seed: int) -> Comparison:
    """The task's measures and score of two scorers, or of two models, on the same questions.

    Intervals are of a bootstrap in which both answer the questions that are drawn. With `Task.WEIGHTS` the score's difference is put
    together from those of the groups, as the score is.

    Raises:
        UserError: when the questions are not the same, in the same order.
    """
    check_same_questions(first, second)
    groups = places_of_groups(first)
    weights = weights_of_groups(task, groups)
    measures = {name: measured_difference(name, first, second, resamples=resamples, seed=seed) for name in (*task.MEASURES, *task.BESIDE)}
    if weights:
        parts = [
            score_difference(task, first.take(groups[name]), second.take(groups[name]), resamples=resamples, seed=seed) for name in weights
        ]
        score = weighted_mean(parts, tuple(weights.values()))
    elif len(task.MEASURES) == 1:
        score = measures[task.MEASURES[0]]
    else:
        score = score_difference(task, first, second, resamples=resamples, seed=seed)
    return Comparison(questions=len(first.questions), measures=measures, score=score, mcnemar=mcnemar(first, second))


def measured_difference(name: str, first: Graded, second: Graded, *, resamples: int, seed: int) -> Interval:
    """By how much a measure of `MEASURES` is larger for the first, with a paired bootstrap interval.

    Raises:
        UserError: when the questions are not the same, in the same order.
    """
    check_same_questions(first, second)
    sides = [MEASURES[name].statistic(graded) for graded in (first, second)]
    return bootstrap(difference(*sides), len(first.questions), resamples=resamples, seed=seed)


def score_difference(task: Task, first: Graded, second: Graded, *, resamples: int, seed: int) -> Interval:
    """By how much the mean of the task's measures is larger for the first, over questions that all count the same."""
    sides = [score_statistic(task, graded) for graded in (first, second)]
    return bootstrap(difference(*sides), len(first.questions), resamples=resamples, seed=seed)


def mcnemar(first: Graded, second: Graded) -> McNemar:
    """The exact test of McNemar 1947 on which of two gets more credit for a question, whatever the amount; equal credit tells nothing.

    Raises:
        UserError: when the questions are not the same, in the same order.
    """
    check_same_questions(first, second)
    signs: Integers = np.sign(first.credits - second.credits).astype(np.int64)
    more, less = int((signs > 0).sum()), int((signs < 0).sum())
    p_value = float(binomtest(more, more + less).pvalue) if more + less else 1.0
    return McNemar(first_better=more, second_better=less, p_value=p_value)


def check_same_questions(first: Graded, second: Graded) -> None:
    """Refuse answers to different questions.

    Raises:
        UserError: when the questions are not the same, in the same order.
    """
    counts = len(first.questions), len(second.questions)
    advice = "Evaluate both with the same evaluation.tasks, evaluation.path, evaluation.limit and evaluation.listed."
    if counts[0] != counts[1]:
        raise UserError(f"Answers to {counts[0]} questions cannot be compared with answers to {counts[1]}: they must be the same. {advice}")
    if first.questions != second.questions:
        place = next(place for place, (one, other) in enumerate(zip(first.questions, second.questions, strict=True)) if one != other)
        raise UserError(f"Answers cannot be compared: question {place + 1} of {counts[0]} is not the same for both. {advice}")
