"""Results of tasks: their parts, their scores, their averages."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from alignkit.data.questions import Question
from alignkit.evaluation.grading import Graded
from alignkit.evaluation.intervals import Interval, wilson
from alignkit.evaluation.measures import score_of
from alignkit.evaluation.results import TaskResult, average, averages, evaluate
from alignkit.evaluation.tasks.task import Task


def binary(seed: int, count: int = 60, groups: Sequence[str] = ("",)) -> Graded:
    """Noisy answers to questions of yes and no with values 0 and 1; groups take turns."""
    generator = np.random.default_rng(seed)
    gold = generator.integers(2, size=count)
    return Graded(
        questions=tuple(
            Question(prompt=f"{n}", candidates=("no", "yes"), correct=(int(right),), value=float(right), group=groups[n % len(groups)])
            for n, right in enumerate(gold)
        ),
        scores=tuple(generator.normal(size=2) + (np.arange(2) == right) for right in gold),
        lengths=tuple(generator.integers(1, 9, size=2) for _ in gold),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Plain(Task):
    BESIDE: ClassVar[tuple[str, ...]] = ("length_controlled",)

    def to_example(self, row: Mapping[str, object]) -> Question:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Several(Task):
    MEASURES: ClassVar[tuple[str, ...]] = ("pearson", "spearman")

    def to_example(self, row: Mapping[str, object]) -> Question:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Sections(Task):
    WEIGHTS: ClassVar[Mapping[str, float]] = {"a": 1.0, "b": 2.0, "c": 5.0, "absent": 100.0}
    SECTIONS: ClassVar[Mapping[str, tuple[str, ...]]] = {"first": ("a", "b", "absent"), "second": ("c",), "none": ("absent",)}

    def to_example(self, row: Mapping[str, object]) -> Question:
        raise NotImplementedError


def test_accuracy_has_wilsons_interval_and_is_the_score():
    graded = binary(0)
    result = evaluate(Plain(), graded, resamples=200, seed=0)
    assert result.questions == 60
    assert result.score == result.measures["accuracy"] == wilson(float(graded.credits.sum()), 60)
    assert result.measures["length_controlled"].is_known
    assert (result.sections, result.groups) == ({}, {})


def test_a_score_of_several_measures_is_their_mean_with_its_own_interval():
    graded = binary(1)
    result = evaluate(Several(), graded, resamples=300, seed=0)
    both = [result.measures[name] for name in ("pearson", "spearman")]
    # Of two values ranks are as good as the values: the two correlations are one.
    assert both[0].value == pytest.approx(both[1].value)
    assert (result.score.value, result.score.low, result.score.high) == pytest.approx((both[0].value, both[0].low, both[0].high))
    assert result.score.value == pytest.approx(score_of(Several(), graded))


def test_groups_and_sections_are_told_and_weights_say_what_they_count():
    graded = binary(2, 90, ["a", "b", "c"])
    result = evaluate(Sections(), graded, resamples=200, seed=0)
    own = {name: float(graded.credits[place::3].mean()) for place, name in enumerate("abc")}
    assert {name: part.score.value for name, part in result.groups.items()} == pytest.approx(own)
    assert {part.questions for part in result.groups.values()} == {30}
    assert set(result.sections) == {"first", "second"}
    assert result.sections["first"].score.value == pytest.approx((own["a"] + 2 * own["b"]) / 3)
    assert result.sections["first"].questions == 60
    assert result.sections["first"].measures["accuracy"].value == pytest.approx((own["a"] + own["b"]) / 2)
    assert result.sections["second"] == result.groups["c"]
    assert result.score.value == pytest.approx((own["a"] + 2 * own["b"] + 5 * own["c"]) / 8)
    assert result.score.value == pytest.approx(score_of(Sections(), graded))
    assert result.measures["accuracy"].value == pytest.approx(graded.credits.mean())
    widths = {name: result.groups[name].score.high - own[name] for name in own}
    assert result.score.high - result.score.value == pytest.approx(
        math.sqrt((widths["a"] / 8) ** 2 + (2 * widths["b"] / 8) ** 2 + (5 * widths["c"] / 8) ** 2)
    )


def test_groups_without_weights_are_told_and_all_questions_count_the_same():
    graded = binary(3, 31, ["x", "y"])
    result = evaluate(Plain(), graded, resamples=200, seed=0)
    assert {name: part.questions for name, part in result.groups.items()} == {"x": 16, "y": 15}
    assert result.score == wilson(float(graded.credits.sum()), 31)


def test_one_group_is_the_whole():
    result = evaluate(Sections(), binary(4, 10, ["b"]), resamples=200, seed=0)
    assert result.groups == {}
    assert set(result.sections) == {"first"}
    assert result.score == result.measures["accuracy"] == result.sections["first"].score


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_questions_break_nothing(count: int):
    for task in (Plain(), Several(), Sections()):
        result = evaluate(task, binary(5, count, ["a", "b"]), resamples=100, seed=0)
        tree = json.loads(json.dumps(result.to_json(), allow_nan=False))
        assert tree["questions"] == count
        if isinstance(task, Several):  # correlations need two different questions
            assert count == 2 or tree["score"]["value"] is None
        else:
            assert tree["score"]["value"] == pytest.approx(result.measures["accuracy"].value) if count else tree["score"]["value"] is None
        assert ("groups" in tree) == (count == 2)


def scored(value: float, low: float = math.nan, high: float = math.nan) -> TaskResult:
    return TaskResult(questions=10, measures={}, score=Interval(value=value, low=low, high=high))


def test_an_average_is_the_plain_mean_of_scores():
    both = average({"boolq": scored(0.6, 0.5, 0.7), "piqa": scored(0.8, 0.7, 0.95)})
    assert both.score.value == pytest.approx(0.7)
    assert both.score.low == pytest.approx(0.7 - math.sqrt(0.01 + 0.01) / 2)
    assert both.score.high == pytest.approx(0.7 + math.sqrt(0.01 + 0.0225) / 2)
    assert (both.tasks, both.undefined, both.unbounded) == (("boolq", "piqa"), (), ())


def test_an_undefined_score_counts_as_nothing_and_is_told():
    both = average({"boolq": scored(0.6, 0.5, 0.7), "stsb": scored(math.nan), "cola": scored(0.0)})
    assert (both.score.value, both.score.low, both.score.high) == pytest.approx((0.2, 0.2 - 0.1 / 3, 0.2 + 0.1 / 3))
    assert (both.undefined, both.unbounded) == (("stsb",), ("cola",))
    assert json.loads(json.dumps(both.to_json(), allow_nan=False))["undefined"] == ["stsb"]


def test_an_average_needs_all_its_tasks():
    results = {"boolq": scored(0.6, 0.5, 0.7), "piqa": scored(0.8, 0.7, 0.95)}
    told = averages({"one": ["piqa"], "both": ["boolq", "piqa"], "more": ["boolq", "rte"]}, results)
    assert set(told) == {"one", "both"}
    assert told["one"].score == results["piqa"].score
