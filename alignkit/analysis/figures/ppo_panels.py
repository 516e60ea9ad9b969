"""What to look at when PPO runs: does the score rise, what does it cost in KL, does the policy still explore, do updates stay small."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alignkit.analysis.bands import STEPS, Band, bands, draw, groups, seeds_told
from alignkit.analysis.measures import unit, words
from alignkit.analysis.runs import Runs
from alignkit.analysis.style import PAGE, legend_below, looks, name_panel, only_lowest_named, panels
from alignkit.errors import UserError
from alignkit.metrics import (
    APPROX_KL,
    CLIP_FRACTION,
    ENTROPY,
    EXPLAINED_VARIANCE,
    GOLD,
    KL,
    KL_COEFFICIENT,
    LENGTH,
    SCORES,
    TRAIN,
    VALIDATION,
)

PANELS = (
    TRAIN + SCORES,
    VALIDATION + GOLD,
    TRAIN + KL,
    TRAIN + KL_COEFFICIENT,
    TRAIN + ENTROPY,
    TRAIN + LENGTH,
    TRAIN + APPROX_KL,
    TRAIN + CLIP_FRACTION,
    TRAIN + EXPLAINED_VARIANCE,
)


def ppo_panels(runs: Runs, *, by: Sequence[str] | None = None) -> Figure:
    """Nine panels, or those of them that were logged: scores and gold, KL and its coefficient, entropy and length, the size of updates.

    Also of rloo, grpo and trpo. Lines are means over seeds with 95 % t intervals.

    Args:
        by: config keys that make a line; all that vary but the seed, unless said.

    Raises:
        UserError: when no run learned from samples, or runs of one line have the same seed.
    """
    there = [name for name in PANELS if name in runs.history and runs.history[name].notna().any()]
    if TRAIN + KL not in there:
        losses = ", ".join(sorted(set(map(str, runs.config.get("loss.name", [])))))
        raise UserError(f"ppo_panels: no run logged {TRAIN + KL}, as ppo, rloo, grpo and trpo do. The runs' losses: {losses or 'unknown'}.")
    lines = groups(runs, by)
    figure, axes = panels(len(there), columns=3, width=PAGE, height=1.9)
    styles = looks(line.label for line in lines)
    handles: dict[str, Line2D] = {}
    every: list[Band] = []
    for place, name in zip(axes, there, strict=True):
        here = bands(runs.curve(name), lines)
        handles |= draw(place, here, styles)
        every += here
        name_panel(place, words(name), STEPS, unit(name))
    only_lowest_named(axes)
    names = [line.label for line in lines if line.label in handles]
    legend_below(figure, [handles[name] for name in names], names, title=seeds_told(every))
    return figure
