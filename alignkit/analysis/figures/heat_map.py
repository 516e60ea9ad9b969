"""A sweep's result, two config keys against each other: beta x epsilon."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from alignkit.analysis.measures import direction, unit, words
from alignkit.analysis.style import COLUMN, INK, NORMAL, PAGE, SEQUENTIAL, SMALL, legend_below, panels, short
from alignkit.errors import UserError

CELL = 0.62
"""Width of a cell, inches."""
DARK = 0.45
"""Lightness below which white words are read better."""


def heat_map(grid: pd.DataFrame, metric: str, *, better: str | None = None, half_widths: pd.DataFrame | None = None) -> Figure:
    """A cell for each pair of values, with its number; the best is framed, and missing ones are hatched.

    Args:
        grid: means, as `alignkit.analysis.sweeps.pivot` gives them; the names of its index and columns are the axes' words.
        metric: name of the result.
        better: `higher` or `lower`, where `alignkit/metrics.py` does not say.
        half_widths: of 95 % intervals, of the same shape; written below each number.

    Raises:
        UserError: when there is no number, or it is not known which is best.
    """
    values = grid.to_numpy(dtype=np.float64)
    if not np.isfinite(values).any():
        raise UserError(f"{metric}: the table holds no number. Are the runs finished, and do they have this metric?")
    rows, columns = values.shape
    halves = np.full_like(values, np.nan) if half_widths is None else half_widths.to_numpy(dtype=np.float64)
    least = float(np.nanmin(values))
    span = float(np.nanmax(values)) - least or 1.0
    width = min(PAGE, max(COLUMN, 1.5 + CELL * columns))
    figure, (axes,) = panels(1, columns=1, width=width, height=max(1.8, 1.1 + 0.4 * rows))
    image = axes.imshow(np.ma.masked_invalid(values), cmap=SEQUENTIAL, vmin=least, vmax=least + span, aspect="auto")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks(range(columns), [written(value) for value in grid.columns])
    axes.set_yticks(range(rows), [written(value) for value in grid.index])
    axes.set_xlabel(str(grid.columns.name), fontsize=NORMAL, color=INK)
    axes.set_ylabel(str(grid.index.name), fontsize=NORMAL, color=INK)
    for row, column in np.ndindex(rows, columns):
        value = float(values[row, column])
        if not np.isfinite(value):
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="white", edgecolor="#b0b0b0", hatch="////", linewidth=0))
            continue
        half = float(halves[row, column])
        text = short(value) + (f"\n± {short(half, like=value)}" if np.isfinite(half) else "")
        colour = "white" if lightness((value - least) / span) < DARK else INK
        axes.text(column, row, text, ha="center", va="center", fontsize=SMALL, color=colour)
    row, column = np.unravel_index((np.nanargmax if direction(metric, better) == "higher" else np.nanargmin)(values), values.shape)
    axes.add_patch(Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor="#D55E00", linewidth=2.0, zorder=3))
    bar = figure.colorbar(image, ax=axes, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=SMALL, length=2)
    bar.set_label(unit(metric), fontsize=NORMAL, color=INK)
    axes.set_title(words(metric), loc="left", fontsize=NORMAL, color=INK, pad=6)
    keys = {"best mean": Patch(fill=False, edgecolor="#D55E00", linewidth=1.6)}
    if not np.isfinite(values).all():
        keys["no result"] = Patch(facecolor="white", edgecolor="#b0b0b0", hatch="////", linewidth=0)
    told = "mean over seeds" + (" ± half of its 95 % t interval" if half_widths is not None else "")
    legend_below(figure, list(keys.values()), list(keys), title=told)
    return figure


def lightness(place: float) -> float:
    """Relative luminance of the colour map at a place in [0, 1] (ITU-R BT.709, without gamma)."""
    red, green, blue, _ = colormaps[SEQUENTIAL](float(place))
    return float(0.2126 * red + 0.7152 * green + 0.0722 * blue)


def written(value: object) -> str:
    """A key's value as a tick."""
    return f"{value:g}" if isinstance(value, float) else str(value)
