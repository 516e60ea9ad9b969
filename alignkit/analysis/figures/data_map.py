"""A data map: training pairs by how sure a model was of their labels, and how much that changed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from alignkit.analysis.per_pair import finite, same_length
from alignkit.analysis.style import COLOURS, legend_below, name_axes, note, panels

MOST_POINTS = 5000
"""Pairs that are drawn; of more, evenly spaced ones in their order."""


def data_map(confidence: Sequence[float], variability: Sequence[float], suspicious: Sequence[bool]) -> Figure:
    """A point a training pair: easy ones stand at the top, ambiguous ones to the right, and at the bottom those whose label a model never
    came to believe. Swayamdipta et al. 2020 (arXiv:2009.10795).

    Args:
        confidence, variability: [B] mean and standard deviation over visits of the chance sigmoid(margin) that is given to the label.
        suspicious: [B] which pairs are marked.

    Raises:
        UserError: when the three differ in length, or no pair has finite numbers.
    """
    same_length("data_map", confidence=confidence, variability=variability, suspicious=suspicious)
    given = (np.asarray(values, dtype=np.float64) for values in (confidence, variability, suspicious))
    sure, spread, marked = finite("data_map", *given)
    figure, (axes,) = panels(1, columns=1, width=4.6, height=3.3)
    drawn = np.unique(np.linspace(0, len(sure) - 1, min(len(sure), MOST_POINTS)).astype(int))
    handles = []
    for is_marked, colour, marker, size in ((0.0, COLOURS[0], "o", 5), (1.0, COLOURS[1], "^", 9)):
        chosen = drawn[marked[drawn] == is_marked]
        points = axes.scatter(
            spread[chosen],
            sure[chosen],
            s=size,
            color=colour,
            marker=marker,
            alpha=0.55,
            linewidths=0,
            zorder=2 + int(is_marked),
            rasterized=True,
        )
        handles.append(points)
    axes.set_ylim(-0.03, 1.15)
    axes.set_xlim(left=0)
    name_axes(axes, "variability: deviation over visits", "confidence: mean sigmoid(margin)")
    note(axes, f"{len(sure):,} pairs")
    legend_below(figure, handles, ["other pairs", "most suspicious"])
    return figure
