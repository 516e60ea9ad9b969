"""What RLHF, DPO and DPH cost and what they reach: `experiment=cost_of_alignment`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alignkit.analysis.answer import Answer, over_seeds, spoken, stages
from alignkit.analysis.policies import best_of_sizes
from alignkit.analysis.runs import Runs
from alignkit.analysis.style import legend_below, looks, name_axes, panels
from alignkit.analysis.sweeps import interval

TARGET = 0.6
"""Gold reward that samples are counted up to."""
GOLD = "val/objective/gold"
LAST = ("ppo", "dpo", "dph")
"""The stages whose learning rate is varied, and whose gold reward counts: the last that train."""


def answer(runs: Runs) -> Answer:
    """A row a method and learning rate: stages, models held, seconds of all stages, gold reward, completions trained on until gold reached
    0.6, and the best of N where a head ranks samples."""
    jobs = measured(runs)
    told = over_seeds(jobs, ["method", "lr"], ["seconds", "gold at the start", "gold"])
    groups = [group for _, group in jobs.groupby(["method", "lr"], sort=False)]
    table = told[["method", "lr", "seeds"]].copy()
    table["stages"] = [group["stages"].max() for group in groups]
    table["models held"] = [int(group["models held"].max()) for group in groups]
    table["peak memory (GiB)"] = [float(group["peak memory"].max()) / 2**30 for group in groups]
    table["seconds"] = told["seconds"]
    table["gold, start"] = told["gold at the start"]
    for part in ("gold", "gold low", "gold high"):
        table[part] = told[part]
    table[f"samples to {TARGET:g}"] = [", ".join("never" if np.isnan(n) else f"{n:.0f}" for n in group["samples"]) for group in groups]
    for column in [name for name in jobs if str(name).startswith("best of ")]:
        table[str(column)] = [float(group[column].mean()) for group in groups]
    return Answer(table=table, figure=figure(jobs), findings=tuple(findings(jobs)))


def measured(runs: Runs) -> pd.DataFrame:
    """A row a job, with all of its stages together."""
    rows = []
    for job, own in stages(runs).groupby("job", sort=False):
        results = runs.results.loc[own["run"]]
        by_stage = dict(zip(own["stage"], own["run"], strict=True))
        last = next((by_stage[name] for name in LAST if name in by_stage), None)
        if last is None:
            continue
        reached = runs.results.loc[last]
        row: dict[str, object] = {
            "job": job,
            "method": own["arm"].iloc[0],
            "seed": runs.config.loc[last, "seed"],
            "lr": float(runs.config.loc[last, "optimizer.lr"]),
            "stages": len(own),
            "seconds": float(results["seconds"].astype(float).sum()),
            "models held": float(results["models_held"].astype(float).max()) if "models_held" in results else np.nan,
            "peak memory": float(results["peak_memory_bytes"].astype(float).max()),
            "gold at the start": float(reached[f"start/{GOLD}"]),
            "gold": float(reached[GOLD]),
            "samples": samples_to_target(runs, last),
        }
        for size in best_of_sizes(results):
            if len(values := results[f"best_of_{size}/gold"].dropna()):
                row[f"best of {size}"] = float(values.iloc[0])
        rows.append(row)
    return pd.DataFrame(rows)


def samples_to_target(runs: Runs, run: str) -> float:
    """Completions that a run trained on until a validation first showed the target: samples of its own for PPO, two a pair else. NaN where
    none did."""
    curve = runs.curve(GOLD)
    there = curve[(curve["run"] == run) & (curve["value"] >= TARGET)]
    if there.empty:
        return float("nan")
    completions, steps = map(float, runs.results.loc[run, ["completions", "steps"]])
    return float(round(completions * float(there["step"].min()) / steps))


def figure(jobs: pd.DataFrame) -> Figure:
    """Gold reward against seconds, a line a method through the means of its learning rates, a dot a seed."""
    drawn, (axes,) = panels(1, columns=1, width=5.0, height=3.2)
    styles = looks(map(str, jobs["method"]))
    handles = []
    for method, group in jobs.groupby("method", sort=False):
        look = styles[str(method)]
        means = over_seeds(group, ["lr"], ["seconds", "gold"]).sort_values("lr")
        axes.plot(group["seconds"], group["gold"], color=look.colour, marker=look.marker, linestyle="", markersize=3, alpha=0.45)
        handles += axes.plot(means["seconds"], means["gold"], color=look.colour, marker=look.marker, linestyle=look.line, markersize=6)
        for row in means.itertuples():
            axes.annotate(f"{row.lr:g}", (row.seconds, row.gold), textcoords="offset points", xytext=(5, -9), fontsize=6)
    axes.axhline(TARGET, color="#b0b0b0", linewidth=0.8, linestyle=":")
    axes.set_xlim(left=0)
    name_axes(axes, "seconds, all stages", "gold reward at the end (score)")
    names = list(map(str, jobs["method"].unique()))
    legend_below(drawn, handles, names, title="large: mean over seeds, with its learning rate; small: seeds; dotted: 0.6")
    return drawn


def findings(jobs: pd.DataFrame) -> list[str]:
    """What each method reached at its best rate, and for how long it trained."""
    told = []
    for method, group in jobs.groupby("method", sort=False):
        means = group.groupby("lr", sort=False)["gold"].mean()
        rate = means.idxmax()
        own = group[group["lr"] == rate]
        trained = own["samples"].dropna()
        after = f", after {trained.mean():.0f} samples on average" if len(trained) else ""
        told.append(
            f"{method} reached a gold reward of {spoken(interval(own['gold'].tolist()))} at its best learning rate of those tried, "
            f"{rate:g}, in {own['seconds'].mean():.0f} s with {models(own['models held'].max())} in memory at once; {len(trained)} of "
            f"{len(own)} seeds reached {TARGET:g}{after}."
        )
    best = jobs.groupby(["method", "lr"])["gold"].mean()
    several = [str(method) for method in jobs["method"].unique() if len(best[method]) > 1]
    edge = [method for method in several if best[method].idxmax() == best[method].index.max()]
    if edge:
        told.append(f"The largest learning rate is the best one of {', '.join(edge)}: none of these is known to be at its best.")
    told.append("KL to the supervised model is not held equal here; experiment=frontier compares at equal KL.")
    return told


def models(count: float) -> str:
    """`1 model`, `3 models`."""
    return "1 model" if count == 1 else f"{count:.0f} models"
