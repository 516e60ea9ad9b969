"""Rewards of chosen and rejected completions, as two distributions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from alignkit.analysis.per_pair import finite, same_length
from alignkit.analysis.style import COLOURS, legend_below, name_axes, note, panels, short

MOST_BINS = 40


def reward_histograms(chosen: Sequence[float], rejected: Sequence[float], *, reward: str = "reward") -> Figure:
    """Both histograms in the same bins; vertical lines are means, and the share of pairs that are ordered rightly stands in the corner.

    Args:
        chosen, rejected: [B] rewards of the two sides of each pair.
        reward: the axis's words, with the unit.

    Raises:
        UserError: when the two differ in length, or no pair has two finite rewards.
    """
    same_length("reward_histograms", chosen=chosen, rejected=rejected)
    sides = finite("reward_histograms", np.asarray(chosen, dtype=np.float64), np.asarray(rejected, dtype=np.float64))
    figure, (axes,) = panels(1, columns=1)
    edges = np.histogram_bin_edges(np.concatenate(sides), bins="auto")
    if len(edges) - 1 > MOST_BINS:
        edges = np.histogram_bin_edges(np.concatenate(sides), bins=MOST_BINS)
    handles = []
    drawn = ((sides[0], "chosen", COLOURS[0], "-", ""), (sides[1], "rejected", COLOURS[1], (0, (4, 1.5)), "////"))
    for values, name, colour, line, hatch in drawn:
        counts, _ = np.histogram(values, edges)
        filled = axes.stairs(counts, edges, fill=True, facecolor=(colour, 0.22), edgecolor=(colour, 0.55), linewidth=0, hatch=hatch)
        filled.set_label(name)
        axes.stairs(counts, edges, color=colour, linewidth=1.2, linestyle=line)
        axes.axvline(float(values.mean()), color=colour, linewidth=1.2, linestyle=line)
        handles.append(filled)
    name_axes(axes, reward, "pairs")
    axes.set_ylim(top=axes.get_ylim()[1] * 1.28)
    accuracy = float(((sides[0] > sides[1]) + 0.5 * (sides[0] == sides[1])).mean())  # a tie counts half, as in the logs
    note(axes, f"{accuracy:.1%} of {len(sides[0])} pairs ordered rightly\nmean margin {short(float((sides[0] - sides[1]).mean()))}")
    legend_below(figure, handles, ["chosen", "rejected"], title="vertical lines: means")
    return figure
