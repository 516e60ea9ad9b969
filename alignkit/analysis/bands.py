"""Lines over training steps: a mean over seeds with its interval, one line a combination of config keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from alignkit.analysis.measures import check_has
from alignkit.analysis.runs import RUN, Runs
from alignkit.analysis.style import BAND, Look
from alignkit.analysis.sweeps import SEED, check_alone, in_order, interval, keyed

STEPS = "optimiser steps"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Runs that differ in their seed alone."""

    label: str
    runs: tuple[str, ...]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """One line: S steps."""

    label: str
    steps: np.ndarray
    """[S]"""
    mean: np.ndarray
    """[S] over the seeds that have the step; NaN where one of them is."""
    low: np.ndarray
    """[S] 95 % interval over seeds; NaN where only one has the step."""
    high: np.ndarray
    seeds: int
    """The most that have a step."""


def groups(runs: Runs, by: Sequence[str] | None, *, seeds: str = SEED) -> list[Group]:
    """Runs by combination of config keys, all that vary but the seed unless said.

    Raises:
        UserError: when a key is not there, or runs of one combination have the same seed.
    """
    varied = [key for key in runs.varied() if key != seeds]
    # A key that follows from others that vary says nothing more.
    keys = list(by) if by is not None else [key for place, key in enumerate(varied) if not implied(runs, key, varied[:place])]
    for key in keys:
        check_has("config key", key, runs.config)
    cells = keyed(runs, [*keys, seeds] if seeds in runs.config else keys)
    if not keys:
        check_alone(runs, cells, [], seeds)
        return [Group(label="mean" if len(cells) > 1 else runs.names[0], runs=tuple(map(str, cells.index)))]
    found = []
    ordered = in_order(cells, keys)
    for combination, group in ordered.groupby(keys, dropna=False, sort=False):
        check_alone(runs, group, keys, seeds)
        found.append(Group(label=worded(keys, combination), runs=tuple(map(str, group.index))))
    return found


def implied(runs: Runs, key: str, before: Sequence[str]) -> bool:
    """Whether earlier keys, taken together, leave a key one value."""
    if not before:
        return False
    cells = keyed(runs, [*before, key])
    return bool((cells.groupby(list(before), sort=False)[key].nunique() <= 1).all())


def worded(keys: Sequence[str], values: Sequence[object]) -> str:
    """`dpo, beta 0.1`: names stand alone, other values with the last part of their key; what a run lacks is left out."""
    words = []
    for key, value in zip(keys, values, strict=True):
        if value == "null":
            continue
        last = key.rpartition(".")[2]
        text = f"{value:g}" if isinstance(value, float) else str(value)
        words.append(text if last in ("name", "pipeline") else f"{last} {text}")
    return ", ".join(words) or "the rest"


def bands(curve: pd.DataFrame, of: Sequence[Group]) -> list[Band]:
    """The lines of a curve (columns run, step, value); groups without a value are left out."""
    found = []
    for group in of:
        rows = curve[curve[RUN].isin(group.runs)]
        if rows.empty:
            continue
        # A resumed run may have validated twice at one step; the later one counts.
        wide = rows.groupby([RUN, "step"], observed=True)["value"].last().unstack(RUN).sort_index()
        over = [interval(row[~np.isnan(row)]) for row in wide.to_numpy()]
        found.append(
            Band(
                label=group.label,
                steps=wide.index.to_numpy(),
                mean=np.array([one.mean for one in over]),
                low=np.array([one.low for one in over]),
                high=np.array([one.high for one in over]),
                seeds=wide.shape[1],
            )
        )
    return found


def draw(axes: Axes, of: Sequence[Band], looks: dict[str, Look]) -> dict[str, Line2D]:
    """Draw lines and their intervals; the handles by label, for a legend."""
    handles = {}
    for band in of:
        look = looks[band.label]
        every = max(1, len(band.steps) // 8)
        (line,) = axes.plot(
            band.steps,
            band.mean,
            color=look.colour,
            linestyle=look.line,
            linewidth=1.3,
            marker=look.marker,
            markersize=3.5,
            markevery=every,
        )
        line.set_label(band.label)
        if np.isfinite(band.low).any():
            axes.fill_between(band.steps, band.low, band.high, color=look.colour, alpha=BAND, linewidth=0)
        handles[band.label] = line
    return handles


def seeds_told(of: Sequence[Band]) -> str:
    """What a legend says of bands: over how many seeds they are."""
    counts = sorted({band.seeds for band in of})
    several = [count for count in counts if count > 1]
    if not several:
        return "one seed each: no interval"
    told = str(several[0]) if len(several) == 1 else f"{several[0]} to {several[-1]}"
    alone = " (none with one)" if counts[0] == 1 else ""
    return f"line: mean; band: 95 % t interval over {told} seeds{alone}"
