"""Likelihood displacement: margins grow while the chosen completion itself becomes less likely. Razin et al. 2024 (arXiv:2410.08847)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alignkit.analysis.bands import STEPS, bands, draw, groups, seeds_told
from alignkit.analysis.measures import unit, words
from alignkit.analysis.runs import RUN, Runs
from alignkit.analysis.style import MUTED, PAGE, legend_below, looks, name_panel, panels
from alignkit.metrics import CHOSEN_LOGPS, MARGINS, REJECTED_LOGPS, VALIDATION


def displacement(runs: Runs, *, by: Sequence[str] | None = None) -> Figure:
    """How log pi of chosen and of rejected held-out completions moves from the first validation on, beside the margin of rewards.

    A chosen side that falls while the margin grows is displaced. Lines are means over seeds with 95 % t intervals.

    Args:
        by: config keys that make a line; all that vary but the seed, unless said.

    Raises:
        UserError: when no run logged these, or runs of one line have the same seed.
    """
    lines = groups(runs, by)
    drawn = [
        (bands(change(runs.curve(VALIDATION + CHOSEN_LOGPS)), lines), "change of log \N{GREEK SMALL LETTER PI}(chosen)", "nats"),
        (bands(change(runs.curve(VALIDATION + REJECTED_LOGPS)), lines), "change of log \N{GREEK SMALL LETTER PI}(rejected)", "nats"),
        (bands(runs.curve(VALIDATION + MARGINS), lines), words(VALIDATION + MARGINS), unit(VALIDATION + MARGINS)),
    ]
    figure, axes = panels(len(drawn), columns=3, width=PAGE, height=2.5)
    styles = looks(line.label for line in lines)
    handles: dict[str, Line2D] = {}
    for place, (here, title, measured_in) in zip(axes, drawn, strict=True):
        place.axhline(0, color=MUTED, linewidth=0.8)
        handles |= draw(place, here, styles)
        name_panel(place, title, STEPS, measured_in)
    # One scale for both sides: how far they move is what is compared.
    ends = [end for place in axes[:2] for end in place.get_ylim()]
    for place in axes[:2]:
        place.set_ylim(min(ends), max(ends))
    names = [line.label for line in lines if line.label in handles]
    told = seeds_told([band for here, *_ in drawn for band in here])
    legend_below(figure, [handles[name] for name in names], names, title=f"held-out pairs; {told}")
    return figure


def change(curve: pd.DataFrame) -> pd.DataFrame:
    """A curve minus each run's first value."""
    first = curve.groupby(RUN, observed=True)["value"].transform("first")
    return curve.assign(value=curve["value"] - first)
