"""The look that all figures share: sizes for print, colours that colour-blind readers tell apart, and lines that grey print does too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

COLUMN = 3.4
"""Width of a figure in one column of a two-column page, inches."""
PAGE = 7.0
"""Width of a figure across the page, inches."""
PANEL_HEIGHT = 2.6
"""Of a panel, inches."""
SMALL, NORMAL = 7.0, 8.0
"""Sizes of type, points: ticks and legends, and what names an axis."""
TICKS = 0.6
"""Width of what stands left of a panel, inches."""
LETTER = 0.56
"""Mean width of a letter, in sizes of type."""
INK, MUTED, GRID = "#1a1a1a", "#6b6b6b", "#e3e3e3"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, without the yellow that white paper swallows: dark ones first."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1.5, 1, 1.5)), (0, (8, 2, 1, 1, 1, 2)))
"""Solid, dashed, dotted, dash-dotted, and one with two dots."""
SEQUENTIAL = "cividis"
"""Colour map of quantities: even steps of lightness, so that it is read the same in grey and by colour-blind eyes."""
BAND = 0.14
"""Opacity of an interval around a line."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How one line is told from the others: by its colour, its marker and its stroke, any of which is enough among the first five."""

    colour: str
    marker: str
    line: Any


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name, in their order. 7 colours, 9 markers and 5 strokes: none comes twice among the first 315."""
    unique = list(dict.fromkeys(names))
    return {
        name: Look(colour=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)], line=LINES[place % len(LINES)])
        for place, name in enumerate(unique)
    }


def panels(count: int, *, columns: int, width: float | None = None, height: float = PANEL_HEIGHT) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, at most `columns` beside each other: a column wide with one, else a page. No pyplot, no global state."""
    beside = min(count, columns)
    rows = -(-count // beside)
    figure = Figure(figsize=(width or (COLUMN if beside == 1 else PAGE), height * rows), layout="constrained", dpi=150)
    figure.set_facecolor("white")
    grid = np.asarray(figure.subplots(rows, beside, squeeze=False)).ravel()
    for spare in grid[count:]:
        spare.remove()
    for axes in grid[:count]:
        plain(axes)
    return figure, list(grid[:count])


def plain(axes: Axes) -> None:
    """Two spines, a light grid behind the data, small ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(labelsize=SMALL, colors=MUTED, labelcolor=INK, width=0.6, length=3)
    axes.grid(True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for name in ("x", "y"):
        axes.ticklabel_format(axis=name, useOffset=False)
        getattr(axes, f"{name}axis").get_offset_text().set_fontsize(SMALL)


def log_scale(axes: Axes) -> None:
    """Powers along the vertical axis, and no numbers between them."""
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())


def name_axes(axes: Axes, x: str, y: str) -> None:
    """Words and units of both axes."""
    axes.set_xlabel(x, fontsize=NORMAL, color=INK)
    axes.set_ylabel(y, fontsize=NORMAL, color=INK)


def name_panel(axes: Axes, title: str, x: str, unit: str) -> None:
    """A title for what is drawn, which has more room above a panel than beside it, and the unit beside it; steps are whole numbers."""
    figure, spec = axes.get_figure(), axes.get_subplotspec()
    assert isinstance(figure, Figure)
    assert spec is not None
    room = figure.get_figwidth() / spec.get_gridspec().ncols - TICKS
    if len(title) * LETTER * NORMAL / 72 > room:
        title = title.replace(", ", ",\n", 1)
    axes.set_title(title, loc="left", fontsize=NORMAL, color=INK, pad=5)
    axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, steps=[1, 2, 5, 10]))
    name_axes(axes, x, unit)


def only_lowest_named(axes: Sequence[Axes]) -> None:
    """Leave out the words of a horizontal axis where a panel with the same one stands below."""
    lowest: dict[int, Axes] = {}
    for place in axes:
        spec = place.get_subplotspec()
        assert spec is not None
        before = lowest.get(spec.colspan.start)
        if before is not None:
            before.set_xlabel("")
        lowest[spec.colspan.start] = place


def legend_below(figure: Figure, handles: Sequence[Artist], labels: Sequence[str], *, title: str = "") -> None:
    """One legend for all panels, below them, in as many columns as fit. `title` says what bands and bars are."""
    longest = max(map(len, labels), default=1)
    column = (longest * LETTER + 5.5) * SMALL / 72  # inches, with the handle
    columns = max(1, min(len(labels), int(figure.get_figwidth() / column)))
    legend = figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=SMALL, title=title or None, title_fontsize=SMALL
    )
    legend.get_title().set_color(MUTED)


def note(axes: Axes, text: str, *, x: float = 0.03, y: float = 0.97) -> None:
    """A remark inside a panel, in fractions of its width and height, below and right of that point."""
    axes.text(x, y, text, transform=axes.transAxes, va="top", ha="left", fontsize=SMALL, color=INK).set_bbox(
        {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    )


def short(value: float, *, like: float | None = None) -> str:
    """Three significant digits, without an exponent where people write none; with as many decimals as `like` has, where it is given."""
    size = abs(value if like is None else like)
    if size != 0 and not 1e-3 <= size < 1e5:
        return f"{value:.2e}".replace("-", "\N{MINUS SIGN}")
    decimals = 2 if size == 0 else min(5, max(0, 2 - math.floor(math.log10(size))))
    return f"{value:.{decimals}f}".replace("-", "\N{MINUS SIGN}")
