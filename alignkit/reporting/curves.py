"""Histories as bytes in the page: one block a metric, which the page reads when the metric is chosen.

Nothing is smoothed or averaged. A history of more than `MOST_POINTS` rows keeps the lowest and the highest value of each of
`MOST_POINTS / 2` equal stretches, so that no spike is lost, and the page says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from alignkit.analysis.runs import Runs
from alignkit.metrics import TRAIN, VALIDATION
from alignkit.reporting.embedding import packed
from alignkit.reporting.headlines import describe, headline_metrics

CLOCKS = ("run", "step", "epoch", "time")
"""Columns of a history that are no metrics."""
MOST_POINTS = 2000
"""Points of a curve; more than a screen has columns."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """All curves of all runs."""

    metrics: tuple[dict[str, str], ...]
    """`name`, `unit`, `better`, `meaning`; those that runs are judged by first."""
    blocks: tuple[list[tuple[int, int, str]], ...]
    """A block a metric: of each run that has it the run's number, the number of its steps in `steps`, and its values, float32."""
    steps: tuple[str, ...]
    """Each different list of steps once, int32."""
    thinned: int
    """Curves of which points were left out."""


def curves_of(runs: Runs) -> Curves:
    """Pack the history."""
    numbers = {str(run): number for number, run in enumerate(runs.info.index)}
    histories = {str(run): own for run, own in runs.history.groupby("run", observed=True)}
    steps: dict[bytes, int] = {}
    lists: list[str] = []
    names = metric_order(runs)
    blocks: list[list[tuple[int, int, str]]] = [[] for _ in names]
    thinned = 0
    for run, own in histories.items():
        at = own["step"].to_numpy(dtype=np.int32)
        for name, block in zip(names, blocks, strict=True):
            values = own[name].to_numpy(dtype=np.float64)
            there = np.isfinite(values)
            if not there.any():
                continue
            kept = np.flatnonzero(there)
            if len(kept) > MOST_POINTS:
                kept, thinned = kept[extremes(values[kept], MOST_POINTS // 2)], thinned + 1
            key = at[kept].tobytes()
            if key not in steps:
                steps[key] = len(lists)
                lists.append(packed(at[kept]))
            block.append((numbers[run], steps[key], packed(values[kept].astype(np.float32))))
    return Curves(metrics=tuple(map(about, names)), blocks=tuple(blocks), steps=tuple(lists), thinned=thinned)


def metric_order(runs: Runs) -> list[str]:
    """Metrics that have a value: those that runs are judged by, held-out ones, those of training."""
    names = [str(name) for name in runs.history.columns if name not in CLOCKS and runs.history[name].notna().any()]
    first = [name for name in headline_metrics(runs) if name in names]
    held_out = [name for name in names if name.startswith(VALIDATION)]
    training = [name for name in names if name.startswith(TRAIN)]
    return list(dict.fromkeys([*first, *held_out, *training, *names]))


def about(name: str) -> dict[str, str]:
    """What the page says of a metric."""
    metric = describe(name)
    return {"name": name, "unit": metric.unit, "better": metric.better, "meaning": metric.meaning}


def extremes(values: NDArray[np.float64], stretches: int) -> NDArray[np.intp]:
    """Places of the lowest and the highest value of each of so many equal stretches, and of the first and last value, in order."""
    bounds = np.linspace(0, len(values), stretches + 1).astype(int)
    return np.unique(np.fromiter(_extreme_places(values, bounds), dtype=np.intp))


def _extreme_places(values: NDArray[np.float64], bounds: NDArray[np.int_]) -> Iterator[Any]:
    yield from (0, len(values) - 1)
    for low, high in itertools.pairwise(bounds):
        if high > low:
            yield low + int(values[low:high].argmin())
            yield low + int(values[low:high].argmax())
