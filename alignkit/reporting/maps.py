"""Results over two keys, as heat maps, and reward against KL, as a frontier."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from alignkit.analysis.runs import Runs
from alignkit.analysis.sweeps import interval
from alignkit.metrics import GOLD, KL, VALIDATION
from alignkit.reporting.comparison import Comparison, is_fixed, named, sorted_labels
from alignkit.reporting.headlines import LOSS_NAME, describe, group_runs, has_own_scale, headline_metrics, loss_of
from alignkit.reporting.numbers import decimals, fixed

MOST_PAIRS = 15
"""Pairs of keys that have a heat map: those of the first six keys."""


def heat_maps(runs: Runs, comparison: Comparison) -> list[dict[str, Any]]:
    """A map for each metric that runs are judged by and each two keys that name groups: means over all runs of a cell."""
    pairs = list(itertools.combinations(comparison.keys, 2))[:MOST_PAIRS]
    return [one for keys in pairs for name in headline_metrics(runs) for one in _map(runs, comparison, name, *keys)]


def frontier(runs: Runs, comparison: Comparison) -> list[dict[str, Any]]:
    """A point a group that has a KL and a gold score: means over seeds and the half widths of their 95 % intervals, or null. One point is
    no frontier."""
    horizontal, vertical = VALIDATION + KL, VALIDATION + GOLD
    if horizontal not in runs.results or vertical not in runs.results:
        return []
    points = []
    for values, members in group_runs(comparison).items():
        both = runs.results.loc[members, [horizontal, vertical]].apply(pd.to_numeric, errors="coerce").dropna()
        if both.empty:
            continue
        keys = dict(zip(comparison.keys, values, strict=True))
        method = keys.pop(LOSS_NAME, None) or loss_of(runs, members[0]) or "all runs"
        points.append(
            {
                "method": method,
                "strength": named(tuple(keys), tuple(keys.values())) if keys else "",
                "kl": _spread(both[horizontal]),
                "gold": _spread(both[vertical]),
                "seeds": len(both),
            }
        )
    return points if len(points) > 1 else []


def _map(runs: Runs, comparison: Comparison, name: str, rows: str, columns: str) -> Iterable[dict[str, Any]]:
    """One heat map; none where fewer than two values of either key have the metric."""
    labels = comparison.labels
    values = pd.to_numeric(runs.results[name], errors="coerce")
    frame = pd.DataFrame({"value": values, "row": labels[rows], "column": labels[columns]}).dropna()
    cells = frame.groupby(["row", "column"], observed=True)["value"].agg(["mean", "count"])
    heights, widths = sorted_labels(frame["row"]), sorted_labels(frame["column"])
    if len(heights) < 2 or len(widths) < 2:
        return
    means = [[_at(cells["mean"], row, column) for column in widths] for row in heights]
    places = decimals([mean for line in means for mean in line if mean is not None])
    is_mixed = has_own_scale(name) and len({loss_of(runs, str(run)) for run in frame.index}) > 1
    better = "neither" if is_mixed else describe(name).better
    known = [mean for line in means for mean in line if mean is not None]
    yield {
        "metric": name,
        "rows": rows,
        "columns": columns,
        "y": heights,
        "x": widths,
        "z": means,
        "text": [["" if mean is None else fixed(mean, min(places, 3)) for mean in line] for line in means],
        "runs": [[int(_at(cells["count"], row, column) or 0) for column in widths] for row in heights],
        "own_scales": is_mixed,
        "over": list(_averaged(labels.loc[frame.index], [rows, columns])),
        "best": None if better == "neither" or len(known) < 2 else (max if better == "higher" else min)(known),
    }


def _averaged(labels: pd.DataFrame, cell: list[str]) -> Iterator[str]:
    """The varied keys that differ between runs of one cell: what its mean goes over."""
    yield from (str(key) for key in labels if key not in cell and not is_fixed(labels, cell, str(key)))


def _at(cells: pd.Series, row: str, column: str) -> float | None:
    return float(cells[row, column]) if (row, column) in cells.index else None


def _spread(values: pd.Series) -> tuple[float, float | None]:
    """Mean, and half the width of its interval."""
    own = interval([float(value) for value in values])
    return own.mean, (own.high - own.mean if math.isfinite(own.high) else None)
