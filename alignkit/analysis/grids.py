"""Sweeps over several keys, seen one or two keys at a time, through their best setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from alignkit.analysis.answer import over_seeds
from alignkit.analysis.bands import implied
from alignkit.analysis.measures import direction, words
from alignkit.analysis.runs import Runs
from alignkit.analysis.style import short
from alignkit.analysis.sweeps import SEED, in_order, keyed, paired, table
from alignkit.errors import UserError

CONSTANT = "loss.name"
"""Stands in for a second key where only one was swept."""

ROUNDING = 1e-12
"""Half widths below this share of a mean come from adding float64 numbers, not from seeds."""


def swept(runs: Runs) -> list[str]:
    """The keys that were varied for their own sake: neither the seed nor what follows from keys before them.

    Raises:
        UserError: when the runs differ in nothing but their seeds.
    """
    varied = [key for key in runs.varied() if key != SEED]
    keys = [key for place, key in enumerate(varied) if not implied(runs, key, varied[:place])]
    if not keys:
        raise UserError("these runs differ in no key but the seed. Give the folder of a sweep, such as -m loss.beta=0.05,0.1,0.5 makes.")
    return keys


def widest(runs: Runs) -> tuple[str, str]:
    """The two swept keys with the most values, in the config's order; of one swept key, it and the loss's name."""
    keys = swept(runs)
    if len(keys) == 1:
        return keys[0], CONSTANT
    values = keyed(runs, keys).nunique()
    most = sorted(keys, key=lambda key: -int(values[key]))[:2]
    first, second = sorted(most, key=keys.index)
    return first, second


def best_setting(runs: Runs, metric: str) -> pd.Series[Any]:
    """The values of the swept keys whose mean over seeds is best, with `mean`, `low`, `high` (95 %) and `seeds`.

    The best of many means is flattered by chance: its interval is that of one setting, and not corrected for how many there were.

    Raises:
        UserError: when no run has the metric, or neither higher nor lower is better.
    """
    means = table(runs, metric, swept(runs)).dropna(subset=["mean"])
    if means.empty:
        raise UserError(f"metric {metric!r}: no run has a number for it yet. Is one of them finished?")
    place = means["mean"].argmax() if direction(metric, None) == "higher" else means["mean"].argmin()
    return means.drop(columns=["missing", "values"]).iloc[int(place)].rename("best")


def through_best(runs: Runs, metric: str, keys: Sequence[str]) -> Runs:
    """The runs that agree with the best setting in every swept key but `keys`: a line through it, or a plane."""
    others = [key for key in swept(runs) if key not in keys]
    wanted = best_setting(runs, metric)
    return runs.only((keyed(runs, others) == wanted[others]).all(axis="columns")) if others else runs


def against_best(runs: Runs, metric: str) -> pd.DataFrame:
    """For each swept key how far the result is, with its other values, from that with the best setting's: `sweeps.paired`, key by key.

    Columns `key`, `value`, `baseline`, then `mean`, `low`, `high` of the difference, `seeds` and `p`. A value that has no partner at equal
    seed and equal other keys is left out: a beta that one loss alone has says nothing of the others.
    """
    wanted = best_setting(runs, metric)
    told = [pd.DataFrame(columns=["key", "value", "baseline", "mean", "low", "high", "seeds", "p"])]
    for key in swept(runs):
        try:
            apart = paired(runs, metric, between=key, baseline=wanted[key])
        except UserError:  # no value of the key has a partner
            continue
        apart = apart[apart["seeds"] > 0].rename(columns={key: "value"})
        apart.insert(0, "key", key)
        apart.insert(2, "baseline", wanted[key])
        told.append(apart)
    return pd.concat(told[1:] or told, ignore_index=True)


def half_widths(runs: Runs, metric: str, *, rows: str, columns: str) -> pd.DataFrame:
    """Half of the 95 % interval over seeds of each mean of `sweeps.pivot`, in its shape; NaN where there is one seed."""
    means = table(runs, metric, [rows, columns])
    means["half"] = means["high"] - means["mean"]
    grid = means.pivot(index=rows, columns=columns, values="half")
    return grid.reindex(index=list(dict.fromkeys(means[rows])), columns=list(dict.fromkeys(in_order(means, [columns])[columns])))


def summary(runs: Runs, metrics: Sequence[str], by: Sequence[str]) -> pd.DataFrame:
    """`means` of results by config keys, in the words of `measures.words`. Results that no run has are left out."""
    known = [metric for metric in dict.fromkeys(metrics) if metric in runs.results]
    rows = in_order(keyed(runs, by), by).join(runs.results[known].apply(pd.to_numeric, errors="coerce"))
    return means(rows.rename(columns={metric: words(metric) for metric in known}), by, [words(metric) for metric in known])


def means(rows: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """A row a combination of `by`, which are its index, for people to read: `seeds`, and each value as `0.613 ± 0.045`, the mean over
    seeds and half of its 95 % t interval; the mean alone of one seed, nothing where there is none. Without rows it is empty."""
    if rows.empty:
        return pd.DataFrame(columns=["seeds", *values], index=pd.MultiIndex.from_tuples([], names=list(by)))
    over = over_seeds(rows, by, values)
    told = over[[*by, "seeds"]].copy()
    for value in values:
        halves = over[f"{value} high"] - over[value]
        told[value] = [worded(mean, half) for mean, half in zip(over[value], halves, strict=True)]
    return told.set_index(list(by))


def worded(mean: float, half: float) -> str:
    """`0.613 ± 0.045`."""
    if not np.isfinite(mean):
        return ""
    return short(mean) + (f" ± {short(half, like=mean)}" if np.isfinite(half) and half > ROUNDING * abs(mean) else "")
