"""What runs kept beside their metrics: counts of the data, the certificate, what they cost, how they ended."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import pandas as pd

from alignkit.analysis.run_files import FAILED, FAILURE, read_object
from alignkit.analysis.runs import Runs
from alignkit.audit_page import EXPLAINED
from alignkit.reporting.comparison import STAGE, Comparison, named
from alignkit.reporting.numbers import ABSENT, counted, duration, fixed, is_number, shown

DATA, CERTIFICATE = "data/", "certificate/"
MOST_COLUMNS = 6
"""Different sets of counts that stand side by side; of more the lowest and the highest are told."""
COSTS: Mapping[str, str] = {
    "steps": "steps",
    "seconds": "time",
    "tokens_per_second": "tokens/s",
    "peak_memory_bytes": "peak memory, GiB",
    "models_held": "models held",
    "parameters": "parameters",
}
"""Results that say what a run cost, and their headings."""
CHECKS: Mapping[str, str] = {
    "terminated_completions": "completions of the first batch that end with the terminator; the others were cut",
    "first_loss": "the loss of the first batch, before the first update",
    "layout_error": "log-probs of packed rows against separate rows: largest difference, nats a token",
    "reference_error": "cached log-probs of the reference against the model's own, nats a token",
    "states_error": "cached hidden states against the model's own, a fraction of their size",
    "expected_first_": "closed form of the loss at policy = reference, which every example met",
    "first_ratio_error": "first update: largest distance of pi / pi_old from 1",
    "first_approx_kl": "first update: how far the policy had moved before it moved, nats",
    "first_clip_fraction": "first update: share of ratios that the clip held back",
    "first_kl_error": "first update: largest distance of the KL to the reference from 0, nats",
    "stored_tensors_unchanged": "stored tensors that an update was seen to leave alone",
}
"""What the numbers of the certificate are, by name or by how it begins."""
STATUS_WORDS: Mapping[str, str] = {
    "done": "ended as planned",
    "unfinished": "has left no results: it is running, or was killed",
    "interrupted": "was stopped and can be resumed",
    "failed": "ended with an error, or diverged",
    "pruned": "was stopped because it did worse than others",
}


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """A table: cells as they are shown."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    order: tuple[tuple[float | None, ...], ...] = ()
    """What columns are sorted by, where that is not their text."""


def data_counts(runs: Runs, comparison: Comparison) -> Grid:
    """A row a count; a column each different set of counts. Empty where no run kept any."""
    counts = runs.results[[name for name in runs.results if str(name).startswith(DATA)]].dropna(how="all")
    if counts.empty:
        return Grid(headings=(), rows=())
    names = sorted(map(str, counts), key=lambda name: _place(name.removeprefix(DATA)))
    sets: dict[tuple[str, ...], list[str]] = {}
    for run, own in counts.iterrows():
        sets.setdefault(tuple(_count(own[name]) for name in names), []).append(str(run))
    headings: tuple[str, ...]
    if len(sets) == 1:
        headings, columns = ("1 run" if len(counts) == 1 else f"all {len(counts)} runs",), list(sets)
    elif len(sets) <= MOST_COLUMNS:
        headings, columns = tuple(whose(comparison, members) for members in sets.values()), list(sets)
    else:
        lows, highs = counts.min(numeric_only=True), counts.max(numeric_only=True)
        headings = ("lowest", "highest")
        columns = [tuple(_count(edge.get(name)) for name in names) for edge in (lows, highs)]
    rows = [
        (name.removeprefix(DATA), *(column[number] for column in columns), _explained(name.removeprefix(DATA)))
        for number, name in enumerate(names)
    ]
    return Grid(headings=("count", *headings, "what it counts"), rows=tuple(rows))


def certificate(runs: Runs) -> Grid:
    """A row a check: how many runs made it, and the lowest and highest of what they measured."""
    names = [str(name) for name in runs.results if str(name).startswith(CERTIFICATE)]
    rows = []
    for name in names:
        values = pd.to_numeric(runs.results[name], errors="coerce").dropna()
        if len(values):
            check = name.removeprefix(CERTIFICATE)
            meaning = next((words for start, words in CHECKS.items() if check.startswith(start)), "")
            rows.append((check, f"{len(values)}", shown(float(values.min())), shown(float(values.max())), meaning))
    return Grid(headings=("check", "runs", "lowest", "highest", "what it is"), rows=tuple(rows))


def uncertified(runs: Runs) -> list[str]:
    """Runs that kept no certificate."""
    names = [name for name in runs.results if str(name).startswith(CERTIFICATE)]
    return [str(run) for run in runs.results.index if not names or runs.results.loc[run, names].isna().all()]


def costs(runs: Runs) -> Grid:
    """A row a run."""
    names = [name for name in COSTS if name in runs.results and runs.results[name].notna().any()]
    rows, order = [], []
    for run in runs.results.index:
        values = [runs.results.at[run, name] for name in names]
        numbers = [float(value) if is_number(value) else math.nan for value in values]
        rows.append((str(run), *(_cost(name, value) for name, value in zip(names, numbers, strict=True))))
        order.append((None, *(value if math.isfinite(value) else None for value in numbers)))
    return Grid(headings=("run", *(COSTS[name] for name in names)), rows=tuple(rows), order=tuple(order))


def total_time(runs: Runs) -> str:
    """The seconds of all runs together, as words; empty where none kept any."""
    if "seconds" not in runs.results:
        return ""
    seconds = pd.to_numeric(runs.results["seconds"], errors="coerce").dropna()
    return f"{counted(len(seconds), 'run')}, {duration(float(seconds.sum()))} in all" if len(seconds) else ""


def statuses(runs: Runs) -> dict[str, int]:
    """Runs by how they ended."""
    return {str(status): int(count) for status, count in runs.info["status"].value_counts().items()}


def failures(runs: Runs) -> dict[str, str]:
    """Why runs of a sweep failed, in their own words, where they left some."""
    places = {str(run): str(path) for run, path in runs.info["path"].items() if path and runs.info.at[run, "status"] == FAILED}
    told = {run: read_object(Path(path) / FAILURE).get("message") for run, path in places.items()}
    return {run: message for run, message in told.items() if isinstance(message, str) and message}


def last_steps(runs: Runs) -> dict[str, int]:
    """The newest step that each run logged."""
    return {str(run): int(step) for run, step in runs.history.groupby("run", observed=True)["step"].max().items()}


def _cost(name: str, value: float) -> str:
    if not math.isfinite(value):
        return ABSENT
    if name == "seconds":
        return duration(value)
    if name == "peak_memory_bytes":
        return fixed(value / 2**30, 2)
    return fixed(value, 0)


def whose(comparison: Comparison, members: list[str]) -> str:
    """Runs with equal counts, by what they alone agree in among the dataset's keys and stages, else by their names."""
    keys = [str(key) for key in comparison.labels if key == STAGE or str(key).startswith("dataset.")]
    agreed = [key for key in keys if comparison.labels.loc[members, key].nunique() == 1]
    words = named(agreed, [str(comparison.labels.at[members[0], key]) for key in agreed]) if agreed else members[0]
    return f"{words} ({counted(len(members), 'run')})"


def _count(value: object) -> str:
    return fixed(float(value), 0) if is_number(value) else ABSENT


def _explained(name: str) -> str:
    """What a count counts; parts of a mixture are counted as `part/count`."""
    return EXPLAINED.get(name) or EXPLAINED.get(name.rpartition("/")[2], "")


def _place(name: str) -> tuple[int, str]:
    order = list(EXPLAINED)
    own = name.rpartition("/")[2]
    return (order.index(own) if own in order else len(order), name)
