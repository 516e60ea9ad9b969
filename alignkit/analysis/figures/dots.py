"""Means with their intervals, a row a setting: settings that have no order, or few."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from alignkit.analysis.answer import over_seeds
from alignkit.analysis.style import PAGE, SMALL, legend_below, looks, name_axes, panels
from alignkit.errors import UserError

ROW = 0.3
"""Height of a setting, inches."""
SPREAD = 0.5
"""Of a row's height: what the series of one setting stand apart."""


def dots(
    rows: pd.DataFrame,
    values: Mapping[str, str],
    *,
    by: str,
    series: str | None = None,
    marks: Mapping[str, float] | None = None,
    mark: str = "",
) -> Figure:
    """One panel a value: for each setting its mean over seeds with its 95 % t interval, and single seeds as small marks.

    Args:
        rows: a row a run.
        values: columns of `rows`, with the words of their axes.
        by: the column that names the setting, from above in the order in which they come.
        series: a column that tells apart what stands in one row; its values are in the legend.
        marks: by value where a dotted line is drawn, such as where all runs began; `mark` says what it is.

    Raises:
        UserError: when no row has any of the values.
    """
    if rows.empty or not np.isfinite(rows[list(values)].to_numpy(dtype=np.float64)).any():
        raise UserError(f"dots: no row has a number for {', '.join(values)}. Are the runs finished?")
    own = rows if series is not None else rows.assign(**{"": ""})
    key = series or ""
    settings, kinds = list(dict.fromkeys(map(str, own[by]))), list(dict.fromkeys(map(str, own[key])))
    styles = looks(kinds)
    shifts = dict(zip(kinds, np.linspace(-SPREAD / 2, SPREAD / 2, len(kinds)) if len(kinds) > 1 else [0.0], strict=True))
    height = 0.9 + ROW * len(settings) * (1 + 0.35 * (len(kinds) - 1))
    figure, axes = panels(len(values), columns=len(values), width=PAGE, height=height)
    handles: dict[str, ErrorbarContainer] = {}
    for place, (value, words) in zip(axes, values.items(), strict=True):
        for kind, group in own.groupby(own[key].astype(str), sort=False):
            look, heights = styles[str(kind)], [settings.index(str(setting)) + shifts[str(kind)] for setting in group[by]]
            place.plot(group[value], heights, color=look.colour, marker=look.marker, linestyle="", markersize=2.4, alpha=0.45)
            means = over_seeds(group, [by], [value])
            handles[str(kind)] = place.errorbar(
                means[value],
                [settings.index(str(setting)) + shifts[str(kind)] for setting in means[by]],
                xerr=(means[f"{value} high"] - means[value]).to_numpy() if means[f"{value} high"].notna().any() else None,
                color=look.colour,
                marker=look.marker,
                linestyle="",
                markersize=5,
                elinewidth=1,
                capsize=2,
            )
        if marks is not None and value in marks:
            place.axvline(marks[value], color="#6b6b6b", linewidth=0.9, linestyle=":")
        place.set_yticks(range(len(settings)), settings if place is axes[0] else [""] * len(settings), fontsize=SMALL)
        place.set_ylim(len(settings) - 0.5, -0.5)
        place.grid(False, axis="y")
        name_axes(place, words, "")
    dotted = f"; dotted: {mark}" if marks and mark else ""
    named: Sequence[str] = [f"{series} {kind}" for kind in handles] if series is not None else ["mean"]
    title = f"bars: 95 % t intervals over seeds; small: single seeds{dotted}"
    legend_below(figure, list(handles.values()), named, title=title)  # type: ignore[arg-type]
    return figure
