"""A result against a size on a logarithmic axis: preferences, prompts, parameters."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from alignkit.analysis.answer import over_seeds
from alignkit.analysis.style import legend_below, looks, name_axes, panels
from alignkit.errors import UserError

BARS = "bars: 95 % t intervals over seeds; small: single seeds"
APART = 1.06
"""Factor between the places of two settings at one size."""
MILLIONS = 1e5
"""From here on sizes are written in millions."""


def trend(rows: pd.DataFrame, size: str, values: Mapping[str, str], *, by: str, words: str) -> Figure:
    """One panel a value, a line a setting: means over seeds with 95 % t intervals against the size, small marks single seeds.

    Args:
        rows: a row a run.
        size: a column of positive numbers.
        values: columns of `rows`, with the words of their axes.
        by: the column that names the setting.
        words: of the horizontal axis.

    Raises:
        UserError: when no row has any of the values.
    """
    if rows.empty or not np.isfinite(rows[list(values)].to_numpy(dtype=np.float64)).any():
        raise UserError(f"trend: no row has a number for {', '.join(values)}. Are the runs finished?")
    figure, axes = panels(len(values), columns=3)
    handles: dict[str, ErrorbarContainer] = {}
    for place, (value, named) in zip(axes, values.items(), strict=True):
        handles |= draw(place, rows, size, value, by=by)
        name_axes(place, words, named)
    legend_below(figure, list(handles.values()), list(handles), title=BARS)  # type: ignore[arg-type]
    return figure


def draw(axes: Axes, rows: pd.DataFrame, size: str, value: str, *, by: str) -> dict[str, ErrorbarContainer]:
    """Draw the lines of one value; their handles by setting, for a legend."""
    styles = looks(map(str, rows[by]))
    sizes = sorted(set(rows[size]))
    apart = {name: APART ** (place - (len(styles) - 1) / 2) for place, name in enumerate(styles)}  # else they hide each other
    handles: dict[str, ErrorbarContainer] = {}
    for setting, group in rows.groupby(by, sort=False):
        look = styles[str(setting)]
        means = over_seeds(group, [size], [value]).sort_values(size)
        axes.plot(
            group[size] * apart[str(setting)], group[value], color=look.colour, marker=look.marker, linestyle="", markersize=2.4, alpha=0.45
        )
        handles[str(setting)] = axes.errorbar(
            means[size] * apart[str(setting)],
            means[value],
            yerr=(means[f"{value} high"] - means[value]).to_numpy() if means[f"{value} high"].notna().any() else None,
            color=look.colour,
            marker=look.marker,
            linestyle=look.line,
            markersize=5,
            linewidth=1.3,
            elinewidth=0.9,
            capsize=2,
        )
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{one / 1e6:.2g}M" if one >= MILLIONS else f"{one:g}" for one in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    if len(sizes) == 1:
        axes.set_xlim(sizes[0] / 2, sizes[0] * 2)
    return handles
