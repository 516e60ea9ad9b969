"""Graded questions as results, as a tree and as a table: the same numbers three times, and what is undefined said so."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from alignkit.data.questions import Question
from alignkit.evaluating.outcome import Outcome
from alignkit.evaluating.question_answers import QuestionAnswers
from alignkit.evaluating.question_table import outcome_of, shown
from alignkit.evaluation.asked import Asked
from alignkit.evaluation.grading import Graded
from alignkit.evaluation.intervals import Interval, unknown, wilson
from alignkit.evaluation.tasks.catalogue import find_task
from alignkit.evaluation_settings import QuestionsSettings

SETTINGS = QuestionsSettings(name="mine", tasks=["boolq"], averages={}, path=None, limit=None, listed=None, resamples=100)
COUNT = 40
RIGHT = np.arange(COUNT) % 2


def asked(task: str, *, groups: Sequence[str] = ("",), values: Sequence[float] | None = None) -> Asked:
    """Questions of yes and no, of which groups take turns."""
    questions = [
        Question(
            prompt=f"{task} {n}",
            candidates=(" no", " yes"),
            correct=(int(right),),
            group=groups[n % len(groups)],
            value=None if values is None else values[n],
        )
        for n, right in enumerate(RIGHT)
    ]
    kind = find_task(task, "evaluation.tasks", listed=None)
    return Asked(name=task, task=kind, questions=questions, encoded=[], counts={"rows": COUNT, "trimmed_prompts": 0})


def graded(one: Asked, hits: Sequence[bool]) -> Graded:
    """Scores under which these questions are answered rightly."""
    best = np.where(hits, RIGHT, 1 - RIGHT)
    return Graded(
        questions=tuple(one.questions),
        scores=tuple(np.array([float(place == 0), float(place == 1)]) for place in best),
        lengths=tuple(np.array([1, 2]) for _ in best),
    )


def outcome(
    scorers: Mapping[str, Mapping[str, Graded]], *tasks: Asked, against: QuestionAnswers | None = None, averages: object = None
) -> Outcome:
    settings = dataclasses.replace(SETTINGS, averages=averages or {})  # type: ignore[arg-type]
    return outcome_of(tasks, scorers, settings, seed=0, against=against, facts={"fingerprint": "abc"})


def printed(told: Outcome) -> list[list[str]]:
    """The words of each line of the table, two spaces or more between them."""
    told.table.box = None
    page = io.StringIO()
    Console(file=page, width=200).print(told.table)
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in page.getvalue().splitlines()]


HALF = [n < COUNT // 2 for n in range(COUNT)]
MOST = [n >= 4 for n in range(COUNT)]


def test_results_tree_and_table_say_the_same() -> None:
    one = asked("boolq")
    told = outcome({"boolq": {"logp_mean": graded(one, HALF), "dph": graded(one, MOST)}}, one)
    expected = wilson(36, 40)
    assert told.results["boolq/dph/accuracy"] == told.results["boolq/dph/score"] == 0.9
    assert (told.results["boolq/dph/accuracy_low"], told.results["boolq/dph/accuracy_high"]) == (expected.low, expected.high)
    assert (told.results["boolq/questions"], told.results["fingerprint"]) == (COUNT, "abc")
    tree = json.loads(json.dumps(told.document))
    boolq = tree["tasks"]["boolq"]
    assert boolq["counts"] == {"rows": COUNT, "trimmed_prompts": 0}
    assert boolq["scorers"]["dph"]["score"] == {"value": 0.9, "low": expected.low, "high": expected.high, "left_out": 0}
    assert tree["fingerprint"] == "abc"
    assert "against" not in boolq
    lines = printed(told)
    assert lines[0] == ["task", "measure", "n", "logp_mean", "dph"]
    assert lines[1] == ["boolq", "accuracy", "40", "0.500 [0.352, 0.648]", f"0.900 [{expected.low:.3f}, {expected.high:.3f}]*"]


def test_a_star_marks_what_pairs_tell_apart_from_log_probs_and_is_explained() -> None:
    one = asked("boolq")
    both = {"logp_mean": graded(one, HALF), "same": graded(one, HALF), "dph": graded(one, MOST)}
    told = outcome({"boolq": both}, one)
    _, line, caption = printed(told)
    assert [cell.endswith("*") for cell in line[3:]] == [False, False, True]
    assert caption == ["* another score than logp_mean: the 95 % interval of the difference is off 0"]
    beside = json.loads(json.dumps(told.document))["tasks"]["boolq"]["minus_logp_mean"]
    assert beside.keys() == {"same", "dph"}
    # 20 questions that only the head gets right, 4 that only log-probs do.
    assert beside["dph"]["mcnemar"] == {"first_better": 20, "second_better": 4, "p_value": pytest.approx(0.0015, abs=1e-4)}
    assert beside["same"]["mcnemar"]["p_value"] == 1.0
    alone = outcome({"boolq": {"dph": graded(one, MOST)}}, one)
    assert len(printed(alone)) == 2, "nothing is marked where there is nothing to be told apart from"


def test_groups_and_what_weighs_them_are_told() -> None:
    one = asked("race", groups=("middle", "high"))
    # Of `middle`, the even questions, 10 of 20 are right, of `high` 15 of 20.
    hits = [n < 20 if n % 2 == 0 else n >= 10 for n in range(COUNT)]
    told = outcome({"race": {"dph": graded(one, hits)}}, one)
    assert (told.results["race/middle/dph/accuracy"], told.results["race/high/dph/accuracy"]) == (0.5, 0.75)
    assert told.results["race/dph/accuracy"] == 0.625
    weighted = (1436 * 0.5 + 3498 * 0.75) / (1436 + 3498)
    assert told.results["race/dph/score"] == pytest.approx(weighted)
    lines = printed(told)
    assert [line[:3] for line in lines[1:]] == [["race", "accuracy", "40"], ["score", lines[2][1]]]
    assert lines[2][1].startswith(f"{weighted:.3f} [")


def test_averages_are_those_of_tasks_that_were_all_asked() -> None:
    first, second = asked("boolq"), asked("rte")
    scorers = {one.name: {"dph": graded(one, hits)} for one, hits in ((first, HALF), (second, MOST))}
    told = outcome(scorers, first, second, averages={"both": ["boolq", "rte"], "more": ["boolq", "piqa"]})
    assert told.results["both/dph/average"] == pytest.approx(0.7)
    assert "both/dph/average_low" in told.results
    assert not [name for name in told.results if name.startswith("more")]
    assert printed(told)[-1][:2] == ["both", "average"]
    averages = json.loads(json.dumps(told.document))["averages"]
    assert averages["dph"]["both"]["tasks"] == ["boolq", "rte"]


def test_what_is_undefined_is_said_and_never_starred() -> None:
    cola, stsb = asked("cola"), asked("stsb", values=[float(5 * right) for right in RIGHT])
    constant = [right == 0 for right in RIGHT]
    scorers = {
        one.name: {"logp_mean": graded(one, [True] * COUNT), "dph": graded(one, constant)} for one in (cola, stsb)
    }  # the head answers "no" to all
    told = outcome(scorers, cola, stsb, averages={"both": ["cola", "stsb"]})
    lines = {line[0]: line for line in printed(told)}
    assert lines["cola"][-1] == "0.000"
    assert lines["stsb"][-1] == lines["spearman"][-1] == "undefined"
    assert math.isnan(told.results["stsb/dph/score"])  # type: ignore[arg-type]
    assert told.results["cola/dph/score"] == 0.0
    tree = json.loads(json.dumps(told.document, allow_nan=False))
    assert tree["tasks"]["stsb"]["scorers"]["dph"]["score"]["value"] is None
    assert told.results["both/dph/average"] == 0.0, "an undefined score counts as nothing"
    assert tree["averages"]["dph"]["both"]["undefined"] == ["stsb"]


def test_ties_share_the_credit() -> None:
    one = asked("boolq")
    equal = dataclasses.replace(graded(one, HALF), scores=tuple(np.array([0.5, 0.5]) for _ in RIGHT))
    told = outcome({"boolq": {"dph": equal}}, one)
    assert told.results["boolq/dph/accuracy"] == 0.5


def test_another_evaluation_is_compared_question_by_question(tmp_path: Path) -> None:
    one = asked("boolq")
    file = tmp_path / "questions.jsonl"
    theirs = graded(one, HALF)
    file.write_text(
        "".join(
            json.dumps({"task": "boolq", "question": question.digest, "scores": {"dph": own.tolist()}, "tokens": [1, 2]}) + "\n"
            for question, own in list(zip(one.questions, theirs.scores, strict=True))[:30]
        )
    )
    scorers = {"boolq": {"dph": graded(one, MOST), "logp_mean": graded(one, MOST)}}
    told = outcome(scorers, one, against=QuestionAnswers.read(file))
    # On the 30 that both were asked: 26 against 20.
    assert told.results["boolq/dph/minus_against"] == pytest.approx(0.2)
    against = json.loads(json.dumps(told.document))["tasks"]["boolq"]["against"]
    assert against.keys() == {"dph"}
    assert (against["dph"]["questions"], against["dph"]["mcnemar"]["first_better"], against["dph"]["mcnemar"]["second_better"]) == (
        30,
        10,
        4,
    )
    line = printed(told)[2]
    assert line[:2] == ["score minus against", "30"]
    assert line[2].startswith("0.200 [")
    assert len(line) == 3, "nothing under logp_mean, which was not asked there"


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        (Interval(value=0.41249, low=0.3812, high=0.44), "0.412 [0.381, 0.440]"),
        (Interval(value=-0.5, low=-1.0, high=0.0), "-0.500 [-1.000, 0.000]"),
        (unknown(0.0), "0.000"),
        (unknown(), "undefined"),
    ],
)
def test_an_interval_in_words(interval: Interval, words: str) -> None:
    assert shown(interval) == words
