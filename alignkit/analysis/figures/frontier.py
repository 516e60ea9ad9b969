"""Reward against KL, by method and strength. Rafailov et al. 2023 (arXiv:2305.18290), figure 2; Gao et al. 2022 (arXiv:2210.10760)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alignkit.analysis.style import PAGE, legend_below, looks, name_axes, panels
from alignkit.analysis.sweeps import Interval, in_order, interval
from alignkit.errors import UserError

NEEDED = ("method", "strength", "seed", "kl", "reward")
KL_ERROR, REWARD_ERROR = "kl_error", "reward_error"
"""Standard errors of a single run's numbers, over held-out samples."""
NORMAL_95 = 1.959964
"""Standard errors of a normal mean on either side."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Spot:
    """One strength of one method."""

    kl: Interval
    reward: Interval
    seeds: int


def frontier(points: pd.DataFrame, *, kl: str = "KL(policy | reference) (nats)", reward: str = "gold reward (score)") -> Figure:
    """A line a method, in order of its strengths' mean KL; bars in both directions are 95 % t intervals over seeds, dots single seeds.

    Bars of strengths with one seed are 1.96 standard errors over samples, where `points` has them, and the legend says so.

    Args:
        points: a row a run: `method`, `strength`, `seed`, `kl`, `reward`, and, where known, `kl_error` and `reward_error`.
        kl, reward: the axes' words.

    Raises:
        UserError: when a column is missing, or no row has both numbers.
    """
    if missing := [name for name in NEEDED if name not in points]:
        raise UserError(f"frontier: points lack {', '.join(missing)}; they have {', '.join(map(str, points.columns))}.")
    known = points[np.isfinite(points["kl"].astype(float)) & np.isfinite(points["reward"].astype(float))]
    if known.empty:
        raise UserError(
            "frontier: no row of points has both a KL and a reward. Runs log them with validation.gold=NAME validation.kl=true."
        )
    figure, (axes,) = panels(1, columns=1, width=PAGE * 0.72, height=3.9)
    styles = looks(map(str, known["method"]))
    handles, counts = {}, set()
    for method, rows in known.groupby("method", sort=False):
        look = styles[str(method)]
        spots = sorted(spots_of(rows), key=lambda spot: spot.kl.mean)
        counts |= {spot.seeds for spot in spots}
        axes.plot(rows["kl"], rows["reward"], color=look.colour, marker=look.marker, linestyle="", markersize=2.2, alpha=0.4, zorder=2)
        handles[str(method)] = axes.errorbar(
            [spot.kl.mean for spot in spots],
            [spot.reward.mean for spot in spots],
            xerr=halves([spot.kl for spot in spots]),
            yerr=halves([spot.reward for spot in spots]),
            color=look.colour,
            marker=look.marker,
            linestyle=look.line,
            markersize=5,
            linewidth=1.3,
            elinewidth=0.8,
            capsize=1.8,
            zorder=3,
        )
    name_axes(axes, kl, reward)
    legend_below(figure, list(handles.values()), list(handles), title=told(counts, known))  # type: ignore[arg-type]
    return figure


def spots_of(rows: pd.DataFrame) -> list[Spot]:
    """The strengths of one method."""
    found = []
    for _, same in in_order(rows, ["strength"]).groupby("strength", dropna=False, sort=False):
        kl, reward = (measured(same, value, error) for value, error in (("kl", KL_ERROR), ("reward", REWARD_ERROR)))
        found.append(Spot(kl=kl, reward=reward, seeds=len(same)))
    return found


def measured(rows: pd.DataFrame, value: str, error: str) -> Interval:
    """Over seeds; of one seed over samples, where its standard error is known."""
    over = interval(rows[value].astype(float).tolist())
    if len(rows) > 1 or error not in rows or not np.isfinite(rows[error].astype(float).iloc[0]):
        return over
    half = NORMAL_95 * float(rows[error].iloc[0])
    return Interval(mean=over.mean, low=over.mean - half, high=over.mean + half)


def halves(over: list[Interval]) -> np.ndarray | None:
    """Half widths as Matplotlib reads them, NaN (no bar) where there is no interval; None where there are none at all."""
    widths = np.array([one.high - one.mean for one in over])
    return widths if np.isfinite(widths).any() else None


def told(counts: set[int], points: pd.DataFrame) -> str:
    """What the legend says of bars and dots."""
    samples = "1.96 standard errors over samples" if {KL_ERROR, REWARD_ERROR} & set(points) else "none"
    if counts == {1}:
        return f"one seed each; bars: {samples}"
    several = sorted(count for count in counts if count > 1)
    many = str(several[0]) if len(several) == 1 else f"{several[0]} to {several[-1]}"
    alone = f", of one seed {samples}" if 1 in counts else ""
    return f"bars: 95 % t intervals over {many} seeds{alone}; small marks: single seeds"
