"""Judgements of pairs that people compared, as what an evaluation leaves: a tree with intervals, a flat list, and a table to print."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from rich import box
from rich.table import Table

from alignkit.evaluating.asked_pairs import AskedTask
from alignkit.evaluating.outcome import Outcome
from alignkit.evaluating.question_table import flat_interval, shown
from alignkit.evaluation.intervals import Interval
from alignkit.evaluation.judge_results import ALPHA, KAPPA, RAW, Agreement, JudgeResult
from alignkit.judges.judge import Judgement
from alignkit.run_dir import Scalar

ACCURACY = "accuracy"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TaskAccount:
    """All that was measured on one benchmark."""

    judges: Mapping[str, JudgeResult]
    """By name; of a vote its members, then the vote."""
    sections: Mapping[str, Mapping[str, JudgeResult]]
    """The same of the task's sections, by name: natural and adversarial pairs of LLMBar."""
    groups: Mapping[str, Mapping[str, JudgeResult]]
    """Of its groups."""
    agreement: Agreement
    """Of the members with each other."""


def outcome_of(asked: Sequence[AskedTask], judged: Mapping[str, Sequence[Judgement]], name: str, facts: Mapping[str, Scalar]) -> Outcome:
    """Everything that is to be said of judgements, which are given by task; `name` is the judge's."""
    accounts = {one.name: account_of(one, by_judge(judged[one.name], name)) for one in asked}
    results: dict[str, Scalar] = {**facts}
    for one in asked:
        results |= dict(flat_account(one.name, accounts[one.name]))
    document = {
        **facts,
        "tasks": {one.name: {"counts": dict(one.counts), **account_json(accounts[one.name])} for one in asked},
    }
    return Outcome(results=results, document=document, table=table_of(asked, accounts))


def by_judge(judgements: Sequence[Judgement], name: str) -> dict[str, list[Judgement]]:
    """What each member of a vote said, and then the vote; of another judge only that."""
    members = {member: [one.by_judge[member] for one in judgements] for member in judgements[0].by_judge}
    return {**members, name: list(judgements)}


def account_of(one: AskedTask, said: Mapping[str, Sequence[Judgement]]) -> TaskAccount:
    """What the judges are worth on a benchmark, and how they agree with each other."""
    groups: dict[str, list[int]] = {}
    for place, pair in enumerate(one.pairs):
        groups.setdefault(pair.question.group, []).append(place)

    def results(places: Sequence[int]) -> dict[str, JudgeResult]:
        preferred = [one.pairs[place].preferred for place in places]
        lengths = [one.pairs[place].lengths for place in places]
        return {name: JudgeResult.of([own[place] for place in places], preferred, lengths) for name, own in said.items()}

    sections = {name: [place for group in inside for place in groups.get(group, ())] for name, inside in one.task.SECTIONS.items()}
    return TaskAccount(
        judges=results(range(len(one.pairs))),
        sections={name: results(places) for name, places in sections.items() if places},
        groups={name: results(places) for name, places in groups.items()} if len(groups) > 1 else {},
        agreement=Agreement.of(list(said.values())[-1]),  # the last one is the vote of the others
    )


def shares(result: JudgeResult) -> dict[str, Interval]:
    """What is a share, by name, where there is something that it is a share of."""
    biases = result.biases
    found = {
        ACCURACY: result.accuracy,
        "decided_accuracy": result.decided_accuracy,
        "tied": result.tied,
        "unread_replies": result.unread,
        "order_decided": biases.flips,
        "first_preferred": biases.first_preferred,
        "longer_preferred": biases.longer_preferred,
    }
    return {name: interval for name, interval in found.items() if not math.isnan(interval.value)}


def numbers(result: JudgeResult) -> dict[str, Scalar]:
    """Counts, and what has no interval."""
    biases = result.biases
    return {
        "pairs": result.pairs,
        "read_pairs": result.read,
        "replies": result.replies,
        **{f"unread/{reason}": count for reason, count in result.reasons.items()},
        "flipped_to_first": biases.flipped_to_first,
        "flipped_to_second": biases.flipped_to_second,
        "wavered": biases.wavered,
        "longer_preferred_beyond_people": biases.beyond_people,
        "length_correlation": biases.correlation,
    }


def flat_account(task: str, account: TaskAccount) -> Iterator[tuple[str, Scalar]]:
    """Names and numbers of a benchmark: `llmbar/dph/accuracy`; of its sections accuracy alone, `llmbar/natural/dph/accuracy`."""
    for name, result in account.judges.items():
        for share, interval in shares(result).items():
            yield from flat_interval(f"{task}/{name}/{share}", interval)
        yield from ((f"{task}/{name}/{key}", value) for key, value in numbers(result).items())
    for section, results in account.sections.items():
        for name, result in results.items():
            yield from flat_interval(f"{task}/{section}/{name}/{ACCURACY}", result.accuracy)
    yield from account.agreement.flat(f"{task}/").items()


def account_json(account: TaskAccount) -> dict[str, object]:
    """The same as a tree, with the groups."""

    def tree(results: Mapping[str, JudgeResult]) -> dict[str, object]:
        return {
            name: {**{share: interval.to_json() for share, interval in shares(result).items()}, **known(numbers(result))}
            for name, result in results.items()
        }

    return {
        "judges": tree(account.judges),
        "sections": {name: tree(results) for name, results in account.sections.items()},
        "groups": {name: tree(results) for name, results in account.groups.items()},
        "agreement": [
            {"judges": [left, right], **known({RAW: raw, KAPPA: kappa})} for (left, right), (raw, kappa) in account.agreement.of_two.items()
        ],
        **known({ALPHA: account.agreement.alpha}),
    }


def known(values: Mapping[str, Scalar]) -> dict[str, Scalar | None]:
    """Null in the place of NaN, which JSON does not have."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}


def table_of(asked: Sequence[AskedTask], accounts: Mapping[str, TaskAccount]) -> Table:
    """A line a measure of a task, a column a judge; below, how the judges agree with each other."""
    names = list(dict.fromkeys(name for account in accounts.values() for name in account.judges))
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("", "", "pairs", *names):
        table.add_column(heading, justify="left" if heading == "" else "right")
    for one in asked:
        account = accounts[one.name]
        whole = {name: shares(result) for name, result in account.judges.items()}
        lines = list(dict.fromkeys(share for own in whole.values() for share in own))
        for share in lines:
            cells = [shown(whole[name][share]) if share in whole[name] else "" for name in names]
            first = share == lines[0]
            table.add_row(one.name if first else "", share.replace("_", " "), str(len(one.pairs)) if first else "", *cells)
        for section, results in account.sections.items():
            count = str(next(iter(results.values())).pairs)
            table.add_row("", f"{ACCURACY}, {section}", count, *(shown(results[name].accuracy) for name in names))
        for (left, right), (raw, kappa) in account.agreement.of_two.items():
            table.add_row("", f"{left} and {right}", "", f"{raw:.3f}, kappa {kappa:.3f}")
        if account.agreement.of_two:
            table.add_row("", "all of them", "", f"alpha {account.agreement.alpha:.3f}")
    table.caption = "accuracy: of pairs with a verdict, a tie counts one half; 95 % intervals"
    table.caption_justify = "left"
    return table
