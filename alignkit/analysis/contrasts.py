"""What sets one group of an experiment's rows apart from another at equal seeds, and in words what that says."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from alignkit.analysis.sweeps import SEED, Interval, interval


def chosen(rows: pd.DataFrame, where: Mapping[str, object]) -> pd.DataFrame:
    """The rows that have these values in these columns."""
    kept = rows
    for column, value in where.items():
        kept = kept[kept[column] == value]
    return kept


def contrast(rows: pd.DataFrame, value: str, this: Mapping[str, object], that: Mapping[str, object]) -> Interval:
    """By how much `value` is larger in the rows that are `this` than in those that are `that`: the mean over the seeds that both have.

    contrast(rows, "gold", {"arm": "kto"}, {"arm": "sft"})
    """
    sides = [chosen(rows, where).groupby(SEED)[value].mean() for where in (this, that)]
    return interval((sides[0] - sides[1]).dropna().astype(float).tolist())


def sign(over: Interval) -> int:
    """1 or -1 where the whole 95 % interval lies on that side of 0; 0 where it does not, or where one seed has none.

    Without any spread the mean decides: an interval of width 0 is known exactly.
    """
    if math.isnan(over.low):
        return 0
    return int(over.low > 0) - int(over.high < 0)


def told(over: Interval, words: tuple[str, str, str]) -> str:
    """One of the words for more, less, and what cannot be told apart from no difference."""
    return words[{1: 0, -1: 1, 0: 2}[sign(over)]]
