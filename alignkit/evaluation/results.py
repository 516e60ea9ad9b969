"""The results of benchmarks: every measure of a task with its interval, its parts, and averages over tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np

from alignkit.evaluation.grading import Graded
from alignkit.evaluation.intervals import Interval, bootstrap, weighted_mean, wilson
from alignkit.evaluation.measures import MEASURES, places_of_groups, score_statistic, weights_of_groups
from alignkit.evaluation.tasks.task import Task


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TaskResult:
    """What one scorer's answers to a task, or to a part of one, are worth."""

    questions: int
    measures: Mapping[str, Interval]
    """`Task.MEASURES` and `Task.BESIDE`, over all questions alike."""
    score: Interval
    """As `alignkit.evaluation.measures.score_of`."""
    sections: Mapping[str, TaskResult] = field(default_factory=dict)
    """Those of `Task.SECTIONS` that have a question."""
    groups: Mapping[str, TaskResult] = field(default_factory=dict)
    """Where there is more than one."""

    def to_json(self) -> dict[str, object]:
        """As a tree of plain values, null for NaN; parts only where there are some."""
        tree: dict[str, object] = {
            "questions": self.questions,
            "score": self.score.to_json(),
            "measures": {name: interval.to_json() for name, interval in self.measures.items()},
        }
        for kind, parts in (("sections", self.sections), ("groups", self.groups)):
            if parts:
                tree[kind] = {name: part.to_json() for name, part in parts.items()}
        return tree


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Average:
    """The plain mean of the scores of several tasks."""

    score: Interval
    tasks: tuple[str, ...]
    undefined: tuple[str, ...]
    """Tasks whose score is undefined, which counts as 0."""
    unbounded: tuple[str, ...]
    """Tasks whose score has no bounds, so that they add none to those of the average."""

    def to_json(self) -> dict[str, object]:
        """As a tree of plain values, null for NaN."""
        return {"score": self.score.to_json(), **{name: list(getattr(self, name)) for name in ("tasks", "undefined", "unbounded")}}


def evaluate(task: Task, graded: Graded, *, resamples: int, seed: int) -> TaskResult:
    """Every measure of a task, its score, and the same of its sections and groups.

    Accuracy has Wilson's interval, other measures and means of several a bootstrap's. A score by `Task.WEIGHTS` takes its interval from
    those of its groups.
    """
    groups = places_of_groups(graded)
    parts = {name: pooled(task, graded.take(places), resamples=resamples, seed=seed) for name, places in groups.items()}
    sections = {}
    for name, members in task.SECTIONS.items():
        if own := {member: parts[member] for member in members if member in parts}:
            section = graded.take(np.sort(np.concatenate([groups[member] for member in own])))
            sections[name] = whole(task, section, own, resamples=resamples, seed=seed)
    result = whole(task, graded, parts, resamples=resamples, seed=seed)
    return replace(result, sections=sections, groups=parts if len(parts) > 1 else {})


def whole(task: Task, graded: Graded, parts: Mapping[str, TaskResult], *, resamples: int, seed: int) -> TaskResult:
    """The result of several groups of questions together, whose own results are `parts`."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    result = pooled(task, graded, resamples=resamples, seed=seed)
    weights = weights_of_groups(task, parts)
    if not weights:
        return result
    return replace(result, score=weighted_mean([parts[name].score for name in weights], tuple(weights.values())))


def pooled(task: Task, graded: Graded, *, resamples: int, seed: int) -> TaskResult:
    """The result of questions that all count the same."""
    measures = {name: measured(name, graded, resamples=resamples, seed=seed) for name in (*task.MEASURES, *task.BESIDE)}
    if len(task.MEASURES) == 1:
        score = measures[task.MEASURES[0]]
    else:
        score = bootstrap(score_statistic(task, graded), len(graded.questions), resamples=resamples, seed=seed)
    return TaskResult(questions=len(graded.questions), measures=measures, score=score)


def measured(name: str, graded: Graded, *, resamples: int, seed: int) -> Interval:
    """A measure of `MEASURES` with its interval."""
    measure = MEASURES[name]
    if measure.proportion:
        return wilson(math.fsum(graded.credits), len(graded.questions))
    return bootstrap(measure.statistic(graded), len(graded.questions), resamples=resamples, seed=seed)


def average(results: Mapping[str, TaskResult]) -> Average:
    """The plain mean of the scores of tasks. A score that is undefined counts as 0, which is known exactly.

    Tasks have different questions, so that the interval is put together from those of the tasks (`weighted_mean`).
    """
    scores = {name: result.score for name, result in results.items()}
    undefined = tuple(name for name, score in scores.items() if math.isnan(score.value))
    counted = [Interval(value=0.0, low=0.0, high=0.0) if name in undefined else score for name, score in scores.items()]
    return Average(
        score=weighted_mean(counted, [1.0] * len(counted)),
        tasks=tuple(scores),
        undefined=undefined,
        unbounded=tuple(name for name, score in scores.items() if name not in undefined and not score.is_known),
    )


def averages(lists: Mapping[str, Sequence[str]], results: Mapping[str, TaskResult]) -> dict[str, Average]:
    """By name, the averages over lists of tasks all of which have a result."""
    return {
        name: average({task: results[task] for task in tasks}) for name, tasks in lists.items() if all(task in results for task in tasks)
    }
