"""Whether training reaches IPO's finite optimum while DPO's margin goes on growing: `experiment=ipo_optimum`.

h = log(pi/ref)(chosen) - log(pi/ref)(rejected). IPO's loss is the mean over pairs of (h - 1 / (2 tau))^2 (arXiv:2310.12036, eq. 17), so
square root is how far, in the root mean square over pairs, training is from the optimum: no pair is forgotten, as in a mean of h.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alignkit.analysis.answer import Answer, over_seeds, rows_of, spoken
from alignkit.analysis.runs import Runs
from alignkit.analysis.style import MUTED, NORMAL, legend_below, log_scale, looks, name_axes, panels
from alignkit.analysis.sweeps import interval

TOLERANCE = 0.01
"""Of the root mean square distance from the optimum, over the optimum: both sides of a pair grow with 1 / tau."""
LOSS, MARGIN = "train/loss", "train/rewards/margins"


def answer(runs: Runs) -> Answer:
    """A row a loss and beta: the mean gap h of the pairs half way and at the end, over seeds, and how far IPO's are from 1 / (2 tau)."""
    jobs = measured(runs)
    table = over_seeds(jobs, ["loss", "beta"], ["h half way", "h"])
    best = [optimum(str(loss), float(beta)) for loss, beta in table[["loss", "beta"]].itertuples(index=False)]
    table.insert(2, "optimum of h", best)
    table["largest distance from it"] = jobs.groupby(["loss", "beta"], sort=False)["distance"].max().to_numpy()
    return Answer(table=table, figure=drawn(runs, jobs), findings=tuple(findings(jobs)))


def optimum(loss: str, beta: float) -> float:
    """The gap of log-ratios where training ends, nats."""
    return 1 / (2 * beta) if loss == "ipo" else math.inf


def measured(runs: Runs) -> pd.DataFrame:
    """A row a run. h is the mean margin of rewards over the pairs, without beta; every step sees all pairs."""
    jobs = rows_of(runs, "policy", config={"loss": "loss.name", "beta": "loss.beta", "steps": "steps"})
    curves = {metric: runs.curve(metric) for metric in (LOSS, MARGIN)}
    for place, job in jobs.iterrows():
        margins, losses = (curve[curve["run"] == job["run"]].sort_values("step") for curve in (curves[MARGIN], curves[LOSS]))
        half = margins[margins["step"] <= job["steps"] / 2]["value"].iloc[-1]
        jobs.loc[place, ["h half way", "h"]] = [half / job["beta"], margins["value"].iloc[-1] / job["beta"]]
        is_ipo = job["loss"] == "ipo"
        jobs.loc[place, "distance"] = math.sqrt(losses["value"].iloc[-1]) if is_ipo else np.nan
    return jobs


def drawn(runs: Runs, jobs: pd.DataFrame) -> Figure:
    """h over steps, a panel a beta, and how far IPO's pairs are from their optimum; a line a seed."""
    betas = sorted(jobs["beta"].unique())
    figure, axes = panels(len(betas) + 1, columns=3)
    styles = looks(map(str, jobs["loss"]))
    margins, losses, handles = runs.curve(MARGIN), runs.curve(LOSS), {}
    for place, beta in zip(axes, betas, strict=False):
        for job in jobs[jobs["beta"] == beta].itertuples():
            own = margins[margins["run"] == job.run].sort_values("step")
            look = styles[str(job.loss)]
            (handles[str(job.loss)],) = place.plot(own["step"], own["value"] / beta, color=look.colour, linestyle=look.line, linewidth=1.1)
        place.axhline(optimum("ipo", beta), color=MUTED, linewidth=0.9, linestyle=":")
        log_scale(place)
        place.set_title(f"tau = beta = {beta:g}", fontsize=NORMAL)
        name_axes(place, "optimiser steps", "h (nats)")
    lows, highs = zip(*(place.get_ylim() for place in axes[: len(betas)]), strict=True)
    for place in axes[: len(betas)]:
        place.set_ylim(min(lows), max(highs))
    ipo = jobs[jobs["loss"] == "ipo"]
    for run, tau in zip(ipo["run"], ipo["beta"].astype(float), strict=True):
        own = losses[losses["run"] == run].sort_values("step")
        shade = 1 if tau == betas[0] else 0.5
        axes[-1].plot(own["step"], np.sqrt(own["value"]) / optimum("ipo", tau), color=styles["ipo"].colour, alpha=shade, linewidth=1)
    axes[-1].axhline(TOLERANCE, color=MUTED, linewidth=0.9, linestyle="--")
    log_scale(axes[-1])
    axes[-1].set_title("ipo, distance from its optimum", fontsize=NORMAL)
    name_axes(axes[-1], "optimiser steps", "distance / optimum")
    title = (
        "a line a seed; left: mean over all pairs, dotted 1 / (2 tau); right: root mean square over pairs, dashed 1 %"
        + ", larger tau paler" * (len(betas) > 1)
    )
    legend_below(figure, list(handles.values()), list(handles), title=title)
    return figure


def findings(jobs: pd.DataFrame) -> list[str]:
    """Whether each run of IPO is at its optimum, and whether each run of DPO is still growing."""
    told = []
    for beta, own in jobs[jobs["loss"] == "ipo"].groupby("beta"):
        best = optimum("ipo", float(own["beta"].iloc[0]))
        relative = own["distance"] / best
        within = int((relative <= TOLERANCE).sum())
        told.append(
            f"IPO, tau = {beta:g}: optimum 1 / (2 tau) = {best:g} nats; h is {spoken(interval(own['h'].tolist()), 4)} after "
            f"{own['steps'].max()} steps, and pairs are {own['distance'].max():.2g} nats from it at most (root mean square over pairs), "
            f"{relative.max():.2%} of it: {'all' if within == len(own) else within} of {len(own)} seeds are within {TOLERANCE:.0%}."
        )
    for beta, own in jobs[jobs["loss"] == "dpo"].groupby("beta"):
        grown = own["h"] / own["h half way"]
        grows = "grows in every seed" if (grown > 1).all() else "does not grow in every seed"
        half, end = (spoken(interval(own[column].tolist())) for column in ("h half way", "h"))
        told.append(
            f"DPO, beta = {beta:g}: h goes from {half} nats half way to {end} after {own['steps'].max()} steps, by a factor of "
            f"{grown.min():.3f} to {grown.max():.3f}: it {grows}."
        )
    return told
