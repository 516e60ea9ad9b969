"""Statistics of sweeps over seeds: means with their intervals, differences at equal seeds, and the best run.

A seed is the unit that is drawn anew, so that all intervals here are over seeds: Student's t with (seeds - 1) degrees of freedom, 95 %.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import pandas as pd
from scipy import stats  # type: ignore[import-untyped]

from alignkit.analysis.measures import check_has, direction
from alignkit.analysis.runs import Runs
from alignkit.errors import UserError

LEVEL = 0.95
"""Of intervals: the share of repetitions of the experiment whose interval holds the mean."""
SEED = "seed"
VALUE = "value"
NULL = "null"
"""What a key that a run lacks, or that is null, is grouped as."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean over seeds and its 95 % interval."""

    mean: float
    low: float
    """NaN of one value, like `high`: one seed says nothing about another."""
    high: float


def interval(values: Sequence[float]) -> Interval:
    """The mean of values and its interval by Student's t: mean ± t(0.975, n - 1) s / sqrt(n). NaN where there is no value."""
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) == 0:
        return Interval(mean=math.nan, low=math.nan, high=math.nan)
    mean = float(numbers.mean())
    if len(numbers) == 1:
        return Interval(mean=mean, low=math.nan, high=math.nan)
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(numbers) - 1) * numbers.std(ddof=1) / math.sqrt(len(numbers)))
    return Interval(mean=mean, low=mean - half, high=mean + half)


def table(runs: Runs, metric: str, by: Sequence[str], *, seeds: str = SEED) -> pd.DataFrame:
    """A result by combination of config keys, over seeds.

    Returns:
        One row a combination, in order of its values: the columns `by`, `mean`, `low`, `high` (NaN with one seed), `seeds` (how many have
        the result), `missing` (runs that do not: unfinished, or not finite) and `values` (a tuple, in order of the seeds).

    Raises:
        UserError: when a key or the metric is not there, or runs of one combination have the same seed.
    """
    cells = measured(runs, metric, [*by, seeds])
    rows = []
    for combination, group in cells.groupby(list(by), dropna=False, sort=False) if by else [((), cells)]:
        check_alone(runs, group, by, seeds)
        values = tuple(float(value) for value in in_order(group, [seeds])[VALUE].dropna())
        over = interval(values)
        row = dict(zip(by, combination, strict=True))
        row |= {"mean": over.mean, "low": over.low, "high": over.high, "seeds": len(values)}
        rows.append(row | {"missing": len(group) - len(values), "values": values})
    return in_order(pd.DataFrame(rows), by).reset_index(drop=True)


def pivot(runs: Runs, metric: str, *, rows: str, columns: str) -> pd.DataFrame:
    """The mean over seeds of a result, two config keys against each other: beta x epsilon. NaN where there is no run.

    Raises:
        UserError: as `table` does.
    """
    means = table(runs, metric, [rows, columns])
    grid = means.pivot(index=rows, columns=columns, values="mean")
    return grid.reindex(index=list(dict.fromkeys(means[rows])), columns=list(dict.fromkeys(in_order(means, [columns])[columns])))


def paired(runs: Runs, metric: str, *, between: str, baseline: object, seeds: str = SEED) -> pd.DataFrame:
    """How far a result is from that of a baseline, at equal seed and equal other keys.

    Runs are compared where both sides have one with the same seed and the same value of every other key that varies; keys that follow
    from `between`, such as the beta that each loss was given, are not matched. Differences are averaged within a seed and then tested
    over seeds, because runs that share a seed are not independent.

    Returns:
        One row a value of `between` but the baseline: that value, `mean`, `low`, `high` of the difference, `seeds` (how many have it) and
        `p`, two-sided, of the paired t test; NaN with one seed.

    Raises:
        UserError: when a key, the metric or the baseline is not there, or no run has a partner.
    """
    cells = measured(runs, metric, [between, seeds])
    check_has(f"{between} =", str(baseline), dict.fromkeys(map(str, cells[between])))
    others = [key for key in runs.varied() if key not in (between, seeds) and not follows(runs, key, between)]
    match = [seeds, *others]
    cells = measured(runs, metric, [between, *match])
    for combination, group in cells.groupby(between, dropna=False, sort=False):
        check_alone(runs, group, [between, *others], seeds, what=f"{between} = {combination!r}, ", by_key=match)
    wide = cells.pivot(index=match, columns=between, values=VALUE)
    rows = []
    for value in in_order(cells, [between])[between].unique():
        if value == baseline:
            continue
        apart = (wide[value] - wide[baseline]).dropna()
        by_seed = apart.groupby(level=seeds).mean()
        over = interval(list(by_seed))
        row = {between: value, "mean": over.mean, "low": over.low, "high": over.high}
        rows.append(row | {"seeds": len(by_seed), "p": p_value(list(by_seed))})
    if not any(row["seeds"] for row in rows):
        raise UserError(
            f"{between}: no run has a partner with {between} = {baseline!r} at equal {', '.join(match)}. Compare runs that were made "
            "with the same values of these, or leave some out with runs.only(...)."
        )
    return pd.DataFrame(rows)


def p_value(differences: Sequence[float]) -> float:
    """Two-sided p of the paired t test that differences have mean 0; NaN of one. Without any spread: 1 at mean 0, else 0."""
    numbers = np.asarray(differences, dtype=np.float64)
    if len(numbers) < 2:
        return math.nan
    error = float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    mean = float(numbers.mean())
    if error == 0.0:
        return 1.0 if mean == 0.0 else 0.0
    return float(2 * stats.t.sf(abs(mean) / error, len(numbers) - 1))


def best(runs: Runs, metric: str, *, better: Literal["higher", "lower"] | None = None) -> str:
    """The run whose result is best, by the metric's own direction unless said; the first one of equals.

    Raises:
        UserError: when the metric is not there, no run has it, or it has no direction and none is said.
    """
    check_has("metric", metric, runs.results)
    values = pd.to_numeric(runs.results[metric], errors="coerce").dropna()
    if values.empty:
        raise UserError(f"metric {metric!r}: no run has a number for it yet. Is one of them finished?")
    return str(values.idxmax() if direction(metric, better) == "higher" else values.idxmin())


def measured(runs: Runs, metric: str, keys: Sequence[str]) -> pd.DataFrame:
    """One row a run: config keys, and the result as `value`, NaN where it is missing or not finite. Missing keys are `null`.

    Raises:
        UserError: when a key or the metric is not there.
    """
    check_has("metric", metric, runs.results)
    for key in keys:
        check_has("config key", key, runs.config)
    values = pd.to_numeric(runs.results[metric], errors="coerce").astype(np.float64)
    return keyed(runs, keys).assign(**{VALUE: values.where(np.isfinite(values))})


def keyed(runs: Runs, keys: Sequence[str]) -> pd.DataFrame:
    """One row a run: config keys, `null` where a run lacks one or has null."""
    cells = runs.config[list(dict.fromkeys(keys))].astype(object)
    return cells.where(cells.notna(), NULL)


def follows(runs: Runs, key: str, other: str) -> bool:
    """Whether a key has one value for each value of another."""
    return bool((keyed(runs, [key, other]).groupby(other, sort=False)[key].nunique() <= 1).all())


def check_alone(
    runs: Runs, group: pd.DataFrame, by: Sequence[str], seeds: str, *, what: str = "", by_key: Sequence[str] | None = None
) -> None:
    """Refuse two runs where one is expected: averaging them would mix what was varied with what seeds do.

    Raises:
        UserError: naming two such runs and the keys that tell them apart.
    """
    keys = list(by_key) if by_key is not None else [seeds]
    twice = group[group.duplicated(keys, keep=False)]
    if twice.empty:
        return
    first = twice.iloc[0]
    same = twice[(twice[keys] == first[keys]).all(axis="columns")]
    names = [str(name) for name in same.index[:2]]
    pair = runs.only(runs.info.index.to_series().isin(names))
    apart = [key for key in pair.varied() if key not in by] or ["info['stage']"] * (pair.info["stage"].nunique() > 1)
    hint = f"They differ in {', '.join(apart[:5])}: compare by it too, or choose with runs.only(...)." if apart else "Leave one out."
    raise UserError(f"{what}{seeds} = {first[seeds]}: two runs or more, {names[0]} and {names[1]}. {hint}")


def in_order(cells: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Rows sorted by keys: numbers by size, then words; a missing one last."""
    return cells.sort_values(list(keys), key=lambda column: column.map(rank), kind="stable") if keys else cells


def rank(value: Hashable) -> tuple[int, Any]:
    """Where a value of a config stands among others of any type."""
    if value == NULL:
        return 2, ""
    return (0, float(value)) if isinstance(value, int | float) else (1, str(value))
