"""Metrics over training: margins, accuracies and whatever else was logged."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alignkit.analysis.bands import STEPS, bands, draw, groups, seeds_told
from alignkit.analysis.measures import unit, words
from alignkit.analysis.runs import Runs
from alignkit.analysis.style import legend_below, looks, name_panel, only_lowest_named, panels
from alignkit.metrics import ACCURACIES, MARGINS, VALIDATION

HELD_OUT = (VALIDATION + MARGINS, VALIDATION + ACCURACIES)


def curves(runs: Runs, metrics: Sequence[str] = HELD_OUT, *, by: Sequence[str] | None = None) -> Figure:
    """One panel a metric, one line a combination of the config keys `by`: the mean over seeds with its 95 % interval.

    Args:
        by: all keys that vary but the seed, unless said.

    Raises:
        UserError: when nobody logged a metric, or runs of one line have the same seed.
    """
    lines = groups(runs, by)
    drawn = [bands(runs.curve(metric), lines) for metric in metrics]
    figure, axes = panels(len(metrics), columns=2)
    styles = looks(line.label for line in lines)
    handles: dict[str, Line2D] = {}
    for place, metric, here in zip(axes, metrics, drawn, strict=True):
        handles |= draw(place, here, styles)
        name_panel(place, words(metric), STEPS, unit(metric))
    only_lowest_named(axes)
    names = [line.label for line in lines if line.label in handles]
    legend_below(figure, [handles[name] for name in names], names, title=seeds_told([band for here in drawn for band in here]))
    return figure
