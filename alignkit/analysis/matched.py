"""Methods compared at equal measured KL, and not at equal beta: the same beta means another distance from the reference to each of them.

Each seed of a method has a frontier of its own, from its start, where KL is 0, through its strengths in order of the KL that they were
measured at. Between neighbours it is a straight line; beyond the last one there is nothing. Rewards are read off at a grid of KLs and
then averaged and compared over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from alignkit.analysis.sweeps import interval, p_value
from alignkit.errors import UserError

GRID = (0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0)
"""KLs at which methods are compared where nobody says otherwise, nats."""
NEEDED = ("method", "seed", "kl", "reward")


def reward_at(points: pd.DataFrame, kls: Sequence[float]) -> np.ndarray:
    """Rewards [K] of one frontier at `kls` [K]: linear between neighbouring points, NaN beyond the outermost ones.

    `points`: rows with `kl` and `reward`; of those at one KL the mean counts.
    """
    known = points[["kl", "reward"]].astype(float).dropna().groupby("kl", sort=True)["reward"].mean()
    if known.empty:
        return np.full(len(kls), np.nan)
    rewards: np.ndarray = np.interp(np.asarray(kls, dtype=np.float64), known.index.to_numpy(), known.to_numpy(), left=np.nan, right=np.nan)
    return rewards


def reach(points: pd.DataFrame) -> pd.Series[float]:
    """By method: the largest KL that all of its seeds reach, which is the smallest of their largest."""
    largest = points.astype({"kl": float}).groupby(["method", "seed"], sort=False)["kl"].max()
    return largest.groupby("method", sort=False).min()


def at_equal_kl(points: pd.DataFrame, *, baseline: str, grid: Sequence[float] = GRID) -> pd.DataFrame:
    """Rewards of methods at equal KL, and how far they are from a baseline's.

    Args:
        points: a row a run, also for the start of each method's seeds: `method`, `seed`, `kl` (nats), `reward`.
        baseline: the method that others are compared with, seed by seed.
        grid: KLs, of which those are kept that a method reaches with all of its seeds.

    Returns:
        One row a KL and method: `kl`, `method`, `reward`, `low`, `high` (95 %, t, over seeds), `seeds`, and of the differences to the
        baseline at equal KL and seed `difference`, `difference low`, `difference high`, `p` (paired t test); NaN for the baseline, and
        where it does not reach. `common`: whether all methods reach the KL.

    Raises:
        UserError: when a column or the baseline is missing, or no method reaches any of the grid.
    """
    if missing := [name for name in NEEDED if name not in points]:
        raise UserError(f"at_equal_kl: points lack {', '.join(missing)}; they have {', '.join(map(str, points.columns))}.")
    methods = list(dict.fromkeys(map(str, points["method"])))
    if baseline not in methods:
        raise UserError(f"at_equal_kl: there is no method {baseline!r} to compare with, but {', '.join(methods)}.")
    reached = reach(points)
    curves = {
        method: {seed: reward_at(own, grid) for seed, own in rows.groupby("seed", sort=True)}
        for method, rows in points.groupby("method", sort=False)
    }
    told = []
    for place, kl in enumerate(grid):
        for method in methods:
            if not kl <= reached[method]:
                continue
            own = {seed: curve[place] for seed, curve in curves[method].items() if np.isfinite(curve[place])}
            if not own:
                continue
            other = (
                {seed: curve[place] for seed, curve in curves[baseline].items()} if kl <= reached[baseline] and method != baseline else {}
            )
            differences = [value - other[seed] for seed, value in own.items() if np.isfinite(other.get(seed, np.nan))]
            over, apart = interval(list(own.values())), interval(differences)
            told.append(
                {
                    "kl": kl,
                    "method": method,
                    "reward": over.mean,
                    "low": over.low,
                    "high": over.high,
                    "seeds": len(own),
                    "difference": apart.mean,
                    "difference low": apart.low,
                    "difference high": apart.high,
                    "p": p_value(differences),
                    "common": bool((reached >= kl).all()),
                }
            )
    if not told:
        raise UserError(f"at_equal_kl: no method reaches {min(grid):g} nats with all of its seeds.")
    return pd.DataFrame(told)
