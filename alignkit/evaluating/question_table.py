"""Graded questions as what an evaluation leaves: a tree with intervals, a flat list, and a table to print."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from rich import box
from rich.table import Table
from rich.text import Text

from alignkit.evaluating.outcome import Outcome
from alignkit.evaluating.question_answers import QuestionAnswers
from alignkit.evaluation.asked import Asked
from alignkit.evaluation.comparison import Comparison, compare
from alignkit.evaluation.grading import Graded
from alignkit.evaluation.intervals import Interval
from alignkit.evaluation.results import Average, TaskResult, averages, evaluate
from alignkit.evaluation_settings import LOGP_MEAN, QuestionsSettings
from alignkit.run_dir import Scalar

SCORE = "score"
AVERAGE = "average"
LOW, HIGH = "_low", "_high"
"""Suffixes of the ends of a 95 % interval."""
OTHER = "against"
STAR = "*"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """All that was measured of one benchmark, by scorer."""

    results: Mapping[str, TaskResult]
    beside: Mapping[str, Comparison]
    """With `logp_mean`, of the other scorers, question by question."""
    against: Mapping[str, Comparison]
    """With the same scorer of another evaluation."""


def outcome_of(
    asked: Sequence[Asked],
    graded: Mapping[str, Mapping[str, Graded]],
    evaluation: QuestionsSettings,
    *,
    seed: int,
    against: QuestionAnswers | None,
    facts: Mapping[str, Scalar],
) -> Outcome:
    """Everything that is to be said of graded questions, which are given by task and scorer."""
    accounts = {one.name: account_of(one, graded[one.name], evaluation, seed=seed, against=against) for one in asked}
    names = list(dict.fromkeys(name for by_scorer in graded.values() for name in by_scorer))
    means = {name: averages(evaluation.averages, {task: own.results[name] for task, own in accounts.items()}) for name in names}
    results: dict[str, Scalar] = {**facts}
    for one in asked:
        results |= dict(flat_task(one.name, accounts[one.name]))
        results[f"{one.name}/questions"] = len(one.questions)
    for name, own in means.items():
        for average, mean in own.items():
            results |= dict(flat_interval(f"{average}/{name}/{AVERAGE}", mean.score))
    document = {
        **facts,
        "tasks": {
            one.name: {
                "counts": dict(one.counts),
                "scorers": {name: result.to_json() for name, result in accounts[one.name].results.items()},
                f"minus_{LOGP_MEAN}": {name: beside.to_json() for name, beside in accounts[one.name].beside.items()},
                **({OTHER: {name: other.to_json() for name, other in accounts[one.name].against.items()}} if against is not None else {}),
            }
            for one in asked
        },
        "averages": {name: {average: mean.to_json() for average, mean in own.items()} for name, own in means.items()},
    }
    return Outcome(results=results, document=document, table=table_of(asked, accounts, means, names))


def account_of(
    one: Asked, graded: Mapping[str, Graded], evaluation: QuestionsSettings, *, seed: int, against: QuestionAnswers | None
) -> Account:
    """What the scorers are worth on a benchmark, and to each other."""
    drawn = {"resamples": evaluation.resamples, "seed": seed}
    results = {name: evaluate(one.task, own, **drawn) for name, own in graded.items()}
    plain = graded.get(LOGP_MEAN)
    beside = {name: compare(one.task, own, plain, **drawn) for name, own in graded.items() if plain is not None and name != LOGP_MEAN}
    others = {}
    for name, own in graded.items() if against is not None else ():
        assert against is not None
        if (found := against.graded(one.name, one.questions, name)) is not None:
            places, theirs = found
            others[name] = compare(one.task, own.take(places), theirs, **drawn)
    return Account(results=results, beside=beside, against=others)


def flat_task(task: str, account: Account) -> Iterator[tuple[str, Scalar]]:
    """Names and numbers of a benchmark: `hellaswag/logp_mean/accuracy`, its groups as `race/middle/logp_mean/accuracy`."""
    for name, result in account.results.items():
        yield from flat_result(task, name, result)
        for part, own in (*result.sections.items(), *result.groups.items()):
            yield from flat_result(f"{task}/{part}", name, own)
    for name, other in account.against.items():
        yield from flat_interval(f"{task}/{name}/minus_{OTHER}", other.score)


def flat_result(place: str, name: str, result: TaskResult) -> Iterator[tuple[str, Scalar]]:
    """The measures of one scorer, and the score that they make."""
    for measure, interval in (*result.measures.items(), (SCORE, result.score)):
        yield from flat_interval(f"{place}/{name}/{measure}", interval)


def flat_interval(name: str, interval: Interval) -> Iterator[tuple[str, Scalar]]:
    """A number and the ends of its interval."""
    yield name, interval.value
    yield name + LOW, interval.low
    yield name + HIGH, interval.high


def table_of(
    asked: Sequence[Asked], accounts: Mapping[str, Account], means: Mapping[str, Mapping[str, Average]], names: Sequence[str]
) -> Table:
    """A line a measure of a task, and one for its difference from another evaluation; a column a scorer. A star marks what is told apart
    from `logp_mean`."""
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("task", "measure", "n", *names):
        table.add_column(Text(heading), justify="left" if heading in ("task", "measure") else "right")
    for one in asked:
        account = accounts[one.name]
        first = next(iter(account.results.values()))
        measures = list(first.measures) + ([SCORE] if first.score not in first.measures.values() else [])
        for place, measure in enumerate(measures):
            cells = [cell(account, name, measure) for name in names]
            table.add_row(one.name if place == 0 else "", measure, str(len(one.questions)) if place == 0 else "", *cells)
        if others := account.against:
            count = str(max(other.questions for other in others.values()))
            table.add_row("", f"{SCORE} minus {OTHER}", count, *(shown(others[name].score) if name in others else "" for name in names))
    for average in dict.fromkeys(label for own in means.values() for label in own):
        table.add_row(average, AVERAGE, "", *(shown(means[name][average].score) for name in names))
    if any(is_apart(accounts[one.name], name, measure) for one in asked for name in names for measure in (*one.task.MEASURES, SCORE)):
        table.caption = f"{STAR} another score than {LOGP_MEAN}: the 95 % interval of the difference is off 0"
        table.caption_justify = "left"
    return table


def cell(account: Account, name: str, measure: str) -> str:
    """A number with its interval."""
    result = account.results[name]
    interval = result.score if measure == SCORE else result.measures[measure]
    return shown(interval) + (STAR if is_apart(account, name, measure) else "")


def is_apart(account: Account, name: str, measure: str) -> bool:
    """Whether a scorer's measure is told apart from that of `logp_mean`."""
    beside = account.beside.get(name)
    if beside is None:
        return False
    difference = beside.score if measure == SCORE else beside.measures[measure]
    return difference.low > 0 or difference.high < 0


def shown(interval: Interval) -> str:
    """`0.412 [0.381, 0.443]`, or what is known of it."""
    if math.isnan(interval.value):
        return "undefined"
    if not interval.is_known:
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"
