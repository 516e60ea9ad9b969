"""Whether a reward measures length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from scipy import stats  # type: ignore[import-untyped]

from alignkit.analysis.per_pair import finite, same_length
from alignkit.analysis.style import INK, legend_below, looks, name_axes, note, panels, short
from alignkit.errors import UserError

FEWEST = 4
"""Completions of which a correlation has an interval."""


def length_against_reward(
    lengths: Sequence[float], rewards: Sequence[float], *, kinds: Sequence[str] | None = None, reward: str = "reward"
) -> Figure:
    """Completions by length and reward, with the least-squares line; Pearson's correlation and its 95 % interval stand in the corner.

    Args:
        lengths: [C] tokens.
        rewards: [C]
        kinds: [C] what each completion is (`chosen`, `rejected`), which its marker and colour tell.
        reward: the axis's words, with the unit.

    Raises:
        UserError: when arrays differ in length, or fewer than four completions have finite numbers.
    """
    names = list(kinds) if kinds is not None else ["completion"] * len(lengths)
    same_length("length_against_reward", lengths=lengths, rewards=rewards, kinds=names)
    places = np.arange(len(names), dtype=np.float64)
    x, y, kept = finite("length_against_reward", np.asarray(lengths, dtype=np.float64), np.asarray(rewards, dtype=np.float64), places)
    if len(x) < FEWEST:
        raise UserError(f"length_against_reward: {len(x)} completions; at least {FEWEST} are needed for a correlation.")
    labels = np.array(names, dtype=object)[kept.astype(int)]
    figure, (axes,) = panels(1, columns=1, height=3.0)
    handles = {}
    for name, look in looks(map(str, labels)).items():
        here = labels == name
        handles[name] = axes.scatter(
            x[here], y[here], s=9, marker=look.marker, facecolors=(look.colour, 0.35), edgecolors=look.colour, linewidths=0.4
        )
    name_axes(axes, "length of the completion (tokens)", reward)
    spread = y.max() - y.min() or 1.0
    axes.set_ylim(y.min() - 0.05 * spread, y.max() + 0.28 * spread)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        note(axes, f"no correlation: all {'lengths' if np.ptp(x) == 0 else 'rewards'} are equal")
        legend_below(figure, list(handles.values()), list(handles))
        return figure
    fit = stats.linregress(x, y)
    ends = np.array([x.min(), x.max()])
    (line,) = axes.plot(ends, fit.intercept + fit.slope * ends, color=INK, linewidth=1.3)
    found = stats.pearsonr(x, y)
    over = found.confidence_interval(0.95)
    note(
        axes,
        f"correlation {short(float(found.statistic))}, 95 % [{short(float(over.low))}, {short(float(over.high))}]\n"
        f"slope {short(float(fit.slope))} a token, {len(x)} completions",
    )
    legend_below(figure, [*handles.values(), line], [*handles, "least squares"])
    return figure
