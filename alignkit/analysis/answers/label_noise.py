"""Which losses hold their clean accuracy when labels are flipped, and whether the share of flips is found: `experiment=label_noise`.

The share is estimated where each pair is seen once, so that a step scores labels that the policy has not learned by heart. A policy that
orders a pair rightly with chance p agrees with a label that is flipped with chance eps with chance

    a = p (1 - eps) + (1 - p) eps          eps = (p - a) / (2 p - 1)

a is the accuracy on the labels of the second half of that epoch, p that on clean held-out pairs over the same steps. No more is assumed
than that both kinds of pairs are equally hard; clean pairs are needed, a hundred or two.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alignkit.analysis.answer import Answer, over_seeds, rows_of, spoken
from alignkit.analysis.runs import Runs
from alignkit.analysis.style import MUTED, legend_below, looks, name_axes, panels
from alignkit.analysis.sweeps import interval, p_value

ONE_EPOCH = "one_epoch"
BASELINE = "dpo"
TOLD_OF = (0.2, 0.3)
"""Shares of flipped labels that findings speak of."""
HELD = 0.05
"""How much clean accuracy a loss may lose and still hold it."""
LABELS, CLEAN = "train/rewards/accuracies", "val/rewards/accuracies"


def answer(runs: Runs) -> Answer:
    """A row a loss and share of flips: accuracy on clean held-out pairs, next to that without flips and to DPO's; of the runs of one epoch
    also the share that is recovered."""
    jobs = measured(runs)
    table = over_seeds(jobs, ["loss", "flips"], ["accuracy"])
    for column, differences in (("kept", lost(jobs)), (f"minus {BASELINE}", against(jobs))):
        means = [interval(list(differences.get((loss, flips), ()))) for loss, flips in zip(table["loss"], table["flips"], strict=True)]
        table[column], table[f"{column} low"], table[f"{column} high"] = zip(*((one.mean, one.low, one.high) for one in means), strict=True)
    found = over_seeds(jobs.dropna(subset=["recovered"]), ["loss", "flips"], ["recovered"]) if jobs["recovered"].notna().any() else None
    if found is not None:
        table = table.merge(found.drop(columns="seeds"), on=["loss", "flips"], how="left")
    table = table.rename(columns={"kept": "change to no flips", "kept low": "change low", "kept high": "change high"})
    return Answer(table=table, figure=drawn(jobs), findings=tuple(findings(jobs)))


def measured(runs: Runs) -> pd.DataFrame:
    """A row a run; `recovered` of those of one epoch."""
    jobs = rows_of(runs, "policy", config={"flips": "dataset.noise", "steps": "steps"}, results={"accuracy": CLEAN})
    jobs["loss"] = jobs["arm"].replace({ONE_EPOCH: f"{BASELINE}, one epoch"})
    jobs["recovered"] = np.nan
    seen = {metric: runs.curve(metric) for metric in (LABELS, CLEAN)}
    for place, job in jobs[jobs["arm"] == ONE_EPOCH].iterrows():
        agreed, right = (
            curve[(curve["run"] == job["run"]) & (curve["step"] > job["steps"] / 2)]["value"].mean()
            for curve in (seen[LABELS], seen[CLEAN])
        )
        jobs.loc[place, "recovered"] = share_flipped(float(agreed), float(right))
    return jobs


def share_flipped(agreed: float, right: float) -> float:
    """The share of labels that are flipped, from how often a policy agrees with them and how often it is right; NaN for one that is not
    better than chance, which says nothing."""
    return (right - agreed) / (2 * right - 1) if right > 0.5 else float("nan")


def lost(jobs: pd.DataFrame) -> dict[tuple[str, float], tuple[float, ...]]:
    """By loss and share of flips: accuracy minus that without flips, seed by seed."""
    clean = jobs[jobs["flips"] == 0].set_index(["loss", "seed"])["accuracy"]
    apart = jobs.assign(apart=jobs["accuracy"] - pd.MultiIndex.from_frame(jobs[["loss", "seed"]]).map(clean.get))
    return {key: tuple(own["apart"].dropna()) for key, own in apart[apart["flips"] > 0].groupby(["loss", "flips"])}  # type: ignore[misc]


def against(jobs: pd.DataFrame) -> dict[tuple[str, float], tuple[float, ...]]:
    """By loss and share of flips: accuracy minus DPO's at equal seed and flips."""
    theirs = jobs[jobs["loss"] == BASELINE].set_index(["flips", "seed"])["accuracy"]
    apart = jobs.assign(apart=jobs["accuracy"] - pd.MultiIndex.from_frame(jobs[["flips", "seed"]]).map(theirs.get))
    return {key: tuple(own["apart"].dropna()) for key, own in apart[apart["loss"] != BASELINE].groupby(["loss", "flips"])}  # type: ignore[misc]


def drawn(jobs: pd.DataFrame) -> Figure:
    """Accuracy over flips, a line a loss; beside it, what was recovered."""
    found = jobs.dropna(subset=["recovered"])
    figure, axes = panels(2 if len(found) else 1, columns=2, width=None if len(found) else 4.6)
    styles, handles = looks(map(str, jobs["loss"])), {}
    losses = list(dict.fromkeys(jobs["loss"]))
    for number, loss in enumerate(losses):
        told = over_seeds(jobs[jobs["loss"] == loss].sort_values("flips"), ["flips"], ["accuracy"])
        look, shift = styles[str(loss)], 0.006 * (number - (len(losses) - 1) / 2)
        handles[str(loss)] = axes[0].errorbar(
            told["flips"] + shift,
            told["accuracy"],
            yerr=[told["accuracy"] - told["accuracy low"], told["accuracy high"] - told["accuracy"]],
            color=look.colour,
            marker=look.marker,
            linestyle=look.line,
            markersize=4,
            linewidth=1.2,
            elinewidth=0.8,
            capsize=1.8,
        )
    axes[0].axhline(0.5, color=MUTED, linewidth=0.8, linestyle=":")
    name_axes(axes[0], "share of flipped training labels", "accuracy, clean held-out pairs")
    if len(found):
        told = over_seeds(found.sort_values("flips"), ["flips"], ["recovered"])
        axes[1].plot([0, 0.5], [0, 0.5], color=MUTED, linewidth=0.8, linestyle=":")
        axes[1].plot(found["flips"], found["recovered"], color="#000000", marker="o", linestyle="", markersize=2.5, alpha=0.4)
        bars = [told["recovered"] - told["recovered low"], told["recovered high"] - told["recovered"]]
        axes[1].errorbar(told["flips"], told["recovered"], yerr=bars, color="#000000", marker="o", markersize=4, linestyle="", capsize=2)
        name_axes(axes[1], "share of flipped training labels", "share recovered")
    title = f"bars: 95 % t intervals over {int(jobs.groupby(['loss', 'flips'])['seed'].nunique().max())} seeds"
    legend_below(figure, list(handles.values()), list(handles), title=title)  # type: ignore[arg-type]
    return figure


def findings(jobs: pd.DataFrame) -> list[str]:
    """Who holds, who is better than DPO, and how well the share is found."""
    told, losses, apart = [], lost(jobs), against(jobs)
    names = [str(loss) for loss in dict.fromkeys(jobs["loss"])]
    for flips in [flips for flips in TOLD_OF if flips in set(jobs["flips"])]:
        means = {loss: interval(list(losses.get((loss, flips), ()))) for loss in names}
        hold = [f"{loss} ({over.mean:+.3f})" for loss, over in means.items() if over.mean >= -HELD]
        fall = [f"{loss} ({over.mean:+.3f})" for loss, over in means.items() if over.mean < -HELD]
        told.append(
            f"At {flips:.0%} flips these lose at most {HELD:g} of the accuracy that they have without: {', '.join(hold) or 'none'}; these "
            f"lose more: {', '.join(fall) or 'none'}."
        )
        for loss in [loss for loss in names if (loss, flips) in apart and "epoch" not in loss]:
            over, p = interval(list(apart[loss, flips])), p_value(apart[loss, flips])
            clear = "above" if over.low > 0 else "below" if over.high < 0 else "not told apart from"
            told.append(f"At {flips:.0%} flips {loss} is {clear} {BASELINE}: {spoken(over, 3)} at equal seeds (p = {p:.2g}).")
    found = jobs.dropna(subset=["recovered"])
    if len(found):
        words = [f"{flips:g}: {spoken(interval(own['recovered'].tolist()), 3)}" for flips, own in found.groupby("flips")]
        error = float((found["recovered"] - found["flips"]).abs().mean())
        told.append(f"Share of flipped labels recovered from one epoch, by the true one: {'; '.join(words)}. Mean error {error:.3f}.")
    return told
