"""Which objective buys the most gold reward for a nat of KL: `experiment=frontier`.

KL is measured on held-out samples (k1, a sequence), but for the best of N, of which it is bounded by ln N - (N - 1) / N (Gao et al. 2022,
arXiv:2210.10760; an equality where no two samples score the same).
"""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.figure import Figure

from alignkit.analysis.answer import Answer, rows_of, spoken
from alignkit.analysis.figures.frontier import frontier
from alignkit.analysis.matched import at_equal_kl, reach
from alignkit.analysis.policies import best_of_sizes
from alignkit.analysis.runs import Runs
from alignkit.analysis.sweeps import Interval
from alignkit.errors import UserError

BASELINE = "dpo"
STRENGTH = {"ppo": "loss.kl_coefficient", "policy": "loss.beta"}
"""By the stage that trains the policy, what its strength is called."""
RATE = "optimizer.lr"
GRID = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
"""KLs at which methods are compared, nats."""
LOOKED_AT = {"kl": "val/objective/kl", "reward": "val/objective/gold", "spread": "val/objective/gold_std"}
BESIDE = {
    "kl_error": "val/objective/kl_standard_error",
    "distinct": "val/rollout/distinct_2",
    "distinct at the start": "start/val/rollout/distinct_2",
    "start": "start/val/objective/gold",
    "prompts": "data/validation",
}
SAMPLING = "best"
"""The stage that samples and ranks."""
WORDS = {"best_of_n": "best of N, reward model", "best_of_n_dph": "best of N, DPH"}
"""Methods whose names are not what people call them."""


def answer(runs: Runs) -> Answer:
    """A row a KL and method: gold reward at that KL, by interpolation along each seed's own frontier, and the difference from DPO's."""
    trained, sampled = trained_points(runs), best_of_points(runs)
    ends = pd.concat([trained, sampled], ignore_index=True)
    if BASELINE not in set(ends["method"]):
        raise UserError("frontier: no run of dpo is finished, which the others are compared with. Look into log.txt of its jobs.")
    whole = pd.concat([starts(trained, sampled), ends], ignore_index=True)
    compared = at_equal_kl(whole, baseline=BASELINE, grid=GRID)
    table = compared.rename(columns={"kl": "KL (nats)", "reward": "gold", "difference": f"minus {BASELINE}", "common": "all reach it"})
    table = table.rename(columns={f"difference {side}": f"minus {BASELINE}, {side}" for side in ("low", "high")})
    return Answer(table=table, figure=drawn(ends), findings=(*findings(compared, reach(whole)), *varied(trained), LIMITS))


def trained_points(runs: Runs) -> pd.DataFrame:
    """A row a run of a policy that was trained: its method (the arm), strength (with its learning rate), seed, KL and gold reward."""
    found = [rows_of(runs, stage, config={"beta": key, "lr": RATE}, results=LOOKED_AT | BESIDE) for stage, key in STRENGTH.items()]
    points = pd.concat([own for own in found if len(own)], ignore_index=True)
    points["strength"] = [f"{beta:g}, lr {rate:g}" for beta, rate in zip(points["beta"], points["lr"], strict=True)]
    points["method"] = points["arm"]
    points["reward_error"] = points["spread"] / points["prompts"].map(lambda count: math.sqrt(count) if count > 0 else math.nan)
    return points


def best_of_points(runs: Runs) -> pd.DataFrame:
    """A row an N of each stage that sampled and ranked: the bound on its KL, and its gold reward."""
    told = []
    for count in best_of_sizes(runs.results):
        names = {"reward": f"best_of_{count}/gold", "kl": f"best_of_{count}/kl_bound"}
        told.append(rows_of(runs, SAMPLING, results=names).assign(strength=count))
    if not told:
        return pd.DataFrame(columns=["method", "strength", "seed", "kl", "reward"])
    points = pd.concat(told, ignore_index=True)
    points["method"] = points["arm"].map(lambda arm: WORDS.get(arm, arm))
    return points


def starts(trained: pd.DataFrame, sampled: pd.DataFrame) -> pd.DataFrame:
    """Where each method's seeds begin: at the supervised model, whose KL to itself is 0. The best of 1 is such a point already."""
    begun = trained.groupby(["method", "seed"], sort=False)["start"].first().rename("reward").reset_index().assign(kl=0.0)
    return begun[~begun["method"].isin(set(sampled["method"]))]


def drawn(ends: pd.DataFrame) -> Figure:
    """The frontier."""
    return frontier(ends, kl="KL(policy | supervised model) (nats a sequence; best of N: bound)", reward="gold reward (VADER, held out)")


def findings(compared: pd.DataFrame, reached: pd.Series[float]) -> list[str]:
    """What holds at equal KL, who is best there, and who does not come that far."""
    told = []
    shared = compared[compared["common"]]
    if shared.empty:
        told.append("No KL of the grid is reached by all methods with all seeds, so that all of them cannot be compared at once.")
    for kl, own in shared.groupby("kl"):
        order = own.sort_values("reward", ascending=False)
        intervals = [Interval(mean=row["reward"], low=row["low"], high=row["high"]) for _, row in order.iterrows()]
        words = ", ".join(f"{method} {spoken(over)}" for method, over in zip(order["method"], intervals, strict=True))
        told.append(f"At {kl:g} nats, gold reward is {words} (95 % over seeds).")
    beyond = compared[~compared["common"]]
    if len(beyond):
        last = beyond[beyond["kl"] == beyond["kl"].max()]
        told.append(
            f"Furthest, at {last['kl'].iloc[0]:g} nats: " + ", ".join(f"{row.method} {row.reward:.2f}" for row in last.itertuples()) + "."
        )
    for method, own in compared[compared["method"] != BASELINE].groupby("method", sort=False):
        known = own.dropna(subset=["difference low"])
        if known.empty:
            told.append(f"{method} and {BASELINE} have no KL of the grid in common that two seeds reach: they are not compared.")
            continue
        better, worse = known[known["difference low"] > 0], known[known["difference high"] < 0]
        far = known.sort_values("difference", key=lambda column: column.abs()).iloc[-1]
        kls = ", ".join(f"{kl:g}" for kl in known["kl"])
        told.append(
            f"{method} against {BASELINE} at equal KL and seed ({kls} nats): above at {len(better)}, below at {len(worse)}, not told "
            f"apart at {len(known) - len(better) - len(worse)}; the largest difference is {far['difference']:+.2f} "
            f"[{far['difference low']:+.2f}, {far['difference high']:+.2f}] at {far['kl']:g} nats."
        )
    told.append("Reach, the largest KL of all seeds: " + ", ".join(f"{method} {kl:.1f}" for method, kl in reached.items()) + " nats.")
    return told


def varied(trained: pd.DataFrame) -> list[str]:
    """Whether reward was bought with repetition, which VADER does not mind."""
    known = trained.dropna(subset=["distinct", "distinct at the start"])
    if known.empty:
        return []
    far = known.sort_values("kl").groupby("method", sort=False).tail(1)
    words = ", ".join(f"{row.method} {row.distinct:.2f} at {row.kl:.1f} nats" for row in far.itertuples())
    start = known["distinct at the start"].mean()
    return [f"Different word pairs over all (distinct-2): {start:.2f} at the start, and at each method's largest KL {words}."]


LIMITS = (
    "One small world, with one learning rate and number of steps for each method: the frontier of a method that is tuned longer may lie "
    "higher. Below its smallest measured KL a frontier is the straight line from the start, which does it no favour. Intervals are those "
    "of single KLs, not corrected for how many there are."
)
