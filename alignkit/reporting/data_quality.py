"""What `alignkit.audit checks=all audit.out=RUN/quality.json` found in the data of runs, where it was kept beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from alignkit.analysis.run_files import objects, read_object
from alignkit.analysis.runs import Runs
from alignkit.reporting.accounts import Grid, whose
from alignkit.reporting.comparison import Comparison
from alignkit.reporting.disputes import beginning, ending
from alignkit.reporting.numbers import ABSENT, fixed, is_number

QUALITY = "quality.json"
"""Where the page looks for it in a run directory."""
MOST_COLUMNS = 6
"""Different data that stand side by side."""
MOST_SUSPECTS = 12


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SuspectPair:
    """A pair whose label a model on words contradicts, as it is shown."""

    prompt: str
    chosen: str
    rejected: str
    place: str
    chance: str
    """That the label is right, by that model."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class QualityPage:
    """What the page tells of the data's quality; empty where no run has the file."""

    grid: Grid
    left_out: int
    """Different data that have no column."""
    suspects: tuple[SuspectPair, ...]
    """Of the first column."""


def quality_of_runs(runs: Runs, comparison: Comparison) -> QualityPage:
    """A row a measure, a column each different account."""
    kept: dict[str, list[str]] = {}
    for run, path in runs.info["path"].items():
        if path and (found := read_object(Path(path) / QUALITY)):
            kept.setdefault(json.dumps(found, sort_keys=True), []).append(str(run))
    accounts = [json.loads(text) for text in kept]
    shown = accounts[:MOST_COLUMNS]
    if not shown:
        return QualityPage(grid=Grid(headings=(), rows=()), left_out=0, suspects=())
    columns = [measures(account) for account in shown]
    headings = [whose(comparison, members) for members in list(kept.values())[:MOST_COLUMNS]]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    return QualityPage(
        grid=Grid(headings=("check", *headings), rows=tuple(rows)),
        left_out=len(accounts) - len(shown),
        suspects=tuple(map(suspect, objects(shown[0].get("suspects"))[:MOST_SUSPECTS])),
    )


def measures(account: Mapping[str, Any]) -> dict[str, str]:
    """What one account says, in words; a dash for a check that was not made."""
    duplicates, contradictions = inner(account, "duplicates"), inner(account, "contradictions")
    noise, lengths = inner(account, "noise"), objects(account.get("lengths"))
    length = lengths[0] if lengths else {}
    leaked = f"{count(duplicates, 'leaked')} of {count(duplicates, 'held_out')}" if duplicates else ABSENT
    return {
        "training examples": count(account, "examples"),
        "comparisons of two completions": count(account, "comparisons"),
        "prompts near to an earlier one": count(duplicates, "near"),
        "held-out prompts near to a training prompt": leaked,
        "pairs labelled both ways": count(contradictions, "opposed"),
        "prompts whose labels run in a circle": count(contradictions, "circles"),
        "chosen is longer": share(length.get("longer")),
        "AUC of length": interval(length.get("auc"), 1.0, 3),
        "chosen stands first": positions(account.get("positions")),
        "labels that a model on words predicts": share(noise.get("accuracy")),
        "labels flipped by mistake": "says nothing" if noise and noise.get("tells") is False else share(noise.get("rate")),
    }


def positions(value: object) -> str:
    """Where the chosen completion stood; not every data set says."""
    if not isinstance(value, list):
        return ABSENT
    first = objects(value)
    return share(first[0].get("first")) if first else "not known"


def inner(account: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object in an account; empty where the check was not made."""
    value = account.get(key)
    return value if isinstance(value, dict) else {}


def count(account: Mapping[str, Any], key: str) -> str:
    """A count."""
    value = account.get(key)
    return fixed(float(value), 0) if is_number(value) else ABSENT


def share(value: object) -> str:
    """A share with its interval, in percent."""
    told = interval(value, 100.0, 1)
    return told if told == ABSENT else f"{told} %"


def interval(value: object, times: float, digits: int) -> str:
    """A number with its interval."""
    if not isinstance(value, dict) or not is_number(value.get("value")):
        return ABSENT
    middle, *ends = (value.get(name) for name in ("value", "low", "high"))
    words: Sequence[str] = [fixed(float(end) * times, digits) if is_number(end) else ABSENT for end in (middle, *ends)]
    return f"{words[0]} [{words[1]}, {words[2]}]"


def suspect(row: Mapping[str, Any]) -> SuspectPair:
    """A row of the account, as it is shown."""
    prompt, chosen, rejected = (text if isinstance(text := row.get(name), str) else ABSENT for name in ("prompt", "chosen", "rejected"))
    place, example, chance = row.get("row"), row.get("example"), row.get("chance")
    return SuspectPair(
        prompt=ending(prompt),
        chosen=beginning(chosen),
        rejected=beginning(rejected),
        # Generated data have no rows.
        place=place.rpartition("/")[2] if isinstance(place, str) else f"example {example + 1}" if isinstance(example, int) else ABSENT,
        chance=f"{fixed(float(chance) * 100, 1)} %" if is_number(chance) else ABSENT,
    )
