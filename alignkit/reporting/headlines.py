"""The numbers that runs are judged by, over seeds, with the best marked and what cannot be told from it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import pandas as pd

from alignkit.analysis.runs import Runs
from alignkit.analysis.sweeps import interval
from alignkit.metrics import ACCURACIES, GOLD, KL, LOSS, MARGINS, SCORES, TRAIN, VALIDATION, Metric, metric
from alignkit.reporting.comparison import SEED, Comparison, label_order
from alignkit.reporting.numbers import ABSENT, decimals, fixed

LOSS_NAME = "loss.name"
MONITOR = "loss.monitor"
BESIDE = (ACCURACIES, MARGINS, GOLD, SCORES, KL)
"""What is told beside the monitors of the losses, where runs have it."""
OWN_SCALE = (LOSS, MARGINS)
"""Metrics in units of each loss's own: of different losses none is better."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One group's number."""

    mean: str
    spread: str
    """Half the width of the 95 % interval; empty with one seed."""
    order: float | None
    """What a column is sorted by."""
    is_best: bool
    is_tied: bool
    """Of a group that is not the best: whether the interval of the difference to the best holds 0."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A metric of the table."""

    name: str
    unit: str
    better: str
    meaning: str
    is_monitor: bool
    cells: tuple[Cell, ...] = ()


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Headlines:
    """One row a group."""

    keys: tuple[str, ...]
    groups: tuple[tuple[str, ...], ...]
    """The values of `keys` of each row."""
    seeds: tuple[int, ...]
    """Finished runs of each row."""
    unfinished: tuple[int, ...]
    """Runs of each row that left no results."""
    columns: tuple[Column, ...]
    has_intervals: bool
    notes: tuple[str, ...] = field(default=())


def describe(name: str) -> Metric:
    """Unit, direction and meaning of a logged name, or of one that `alignkit.metrics` does not know."""
    try:
        return metric(name.removeprefix(VALIDATION).removeprefix(TRAIN))
    except KeyError:
        return Metric(name=name, unit="", better="neither", meaning="")


def headline_metrics(runs: Runs) -> list[str]:
    """The monitors of the losses, then what else tells runs apart; only what some run has."""
    monitors = [str(name) for name in runs.config.get(MONITOR, pd.Series(dtype=object)).dropna().unique()]
    beside = [prefix + name for name in BESIDE for prefix in (VALIDATION, "")]
    return [name for name in dict.fromkeys([*monitors, *beside]) if name in runs.results and runs.results[name].notna().any()]


def headlines(runs: Runs, comparison: Comparison) -> Headlines:
    """The table of all groups."""
    groups = group_runs(comparison)
    finished = runs.results.notna().any(axis=1)
    seeds = comparison.labels[SEED] if comparison.has_seeds else pd.Series("0", index=comparison.labels.index)
    columns = []
    losses = [loss_of(runs, members[0]) for members in groups.values()]
    monitors = set(runs.config[MONITOR].dropna()) if MONITOR in runs.config else set()
    for name in headline_metrics(runs):
        about = describe(name)
        values = [values_by_seed(runs.results.loc[members, name], seeds.loc[members]) for members in groups.values()]
        column = Column(name=name, unit=about.unit, better=about.better, meaning=about.meaning, is_monitor=name in monitors)
        rivals = losses if has_own_scale(name) else ["" for _ in losses]
        columns.append(_filled(column, values, rivals))
    return Headlines(
        keys=comparison.keys,
        groups=tuple(groups),
        seeds=tuple(int(finished.loc[members].sum()) for members in groups.values()),
        unfinished=tuple(int((~finished.loc[members]).sum()) for members in groups.values()),
        columns=tuple(columns),
        has_intervals=any(cell.spread for column in columns for cell in column.cells),
        notes=tuple(_notes(columns, several_losses=len(set(losses)) > 1)),
    )


def group_runs(comparison: Comparison) -> dict[tuple[str, ...], list[str]]:
    """Runs by the values of the keys that name groups, ordered by those values."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for run in comparison.labels.index:
        groups.setdefault(tuple(str(comparison.labels.at[run, key]) for key in comparison.keys), []).append(str(run))
    return dict(sorted(groups.items(), key=lambda item: [label_order(value) for value in item[0]]))


def values_by_seed(values: pd.Series, seeds: pd.Series) -> dict[str, float]:
    """A group's numbers; runs of one seed count once, by their mean."""
    known = pd.to_numeric(values, errors="coerce").dropna()
    return {str(seed): float(mean) for seed, mean in known.groupby(seeds.loc[known.index]).mean().items()}


def is_tied(best: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Whether the 95 % interval of the paired differences at equal seeds holds 0. With fewer than two such seeds nothing is said."""
    common = sorted(best.keys() & other.keys())
    if len(common) < 2:
        return False
    difference = interval([other[seed] - best[seed] for seed in common])
    return difference.low <= 0.0 <= difference.high


def has_own_scale(name: str) -> bool:
    """Whether a metric compares runs of one loss only."""
    return name.removeprefix(VALIDATION) in OWN_SCALE


def loss_of(runs: Runs, run: str) -> str:
    """The name of a run's loss; empty where its config has none."""
    return str(runs.config.at[run, LOSS_NAME]) if LOSS_NAME in runs.config else ""


def _filled(column: Column, values: Sequence[Mapping[str, float]], rivals: Sequence[str]) -> Column:
    """The column with its cells; a group competes with those that have the same word in `rivals`."""
    intervals = [interval(list(own.values())) if own else None for own in values]
    means = [math.nan if own is None else own.mean for own in intervals]
    errors = [math.nan if own is None else own.high - own.mean for own in intervals]
    places = decimals(means, errors)
    bests = {
        rival: _best([mean if own == rival else math.nan for mean, own in zip(means, rivals, strict=True)], column.better)
        for rival in rivals
    }
    cells = []
    for number, (mean, error) in enumerate(zip(means, errors, strict=True)):
        best = bests[rivals[number]]
        is_best = best is not None and mean == means[best]
        tied = best is not None and not is_best and is_tied(values[best], values[number])
        spread = fixed(error, places) if math.isfinite(error) else ""
        order = None if math.isnan(mean) else mean
        cells.append(Cell(mean=fixed(mean, places), spread=spread, order=order, is_best=is_best, is_tied=tied))
    about = {name: getattr(column, name) for name in ("name", "unit", "better", "meaning", "is_monitor")}
    return Column(**about, cells=tuple(cells))


def _best(means: Sequence[float], better: str) -> int | None:
    """The place of the best mean; none without a direction or a second group."""
    known = [number for number, mean in enumerate(means) if not math.isnan(mean)]
    if better == "neither" or len(known) < 2:
        return None
    return max(known, key=lambda number: means[number] if better == "higher" else -means[number])


def _notes(columns: Sequence[Column], *, several_losses: bool) -> Iterator[str]:
    """What a reader has to know so as not to read too much out of the table."""
    own = [column.name for column in columns if has_own_scale(column.name)]
    if several_losses and own:
        yield f"Each loss has its own scale of {' and '.join(own)}: there the marks compare rows of one loss only."
    spreads = {bool(cell.spread) for column in columns for cell in column.cells if cell.mean != ABSENT}
    if len(spreads) == 2:
        yield "Rows of one seed have no interval: whether they differ from others cannot be said."
    if any(cell.mean == ABSENT for column in columns for cell in column.cells):
        yield f"{ABSENT}: the runs of that row do not measure it, or have not ended."
