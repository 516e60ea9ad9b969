"""How far training a preference head moves the language model, and what ranking by it buys: `experiment=language_model_kept`."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from alignkit.analysis.answer import Answer, over_seeds, rows_of, spoken
from alignkit.analysis.policies import best_of_sizes
from alignkit.analysis.runs import Runs
from alignkit.analysis.style import COLOURS, NORMAL, SMALL, legend_below, panels
from alignkit.analysis.sweeps import interval
from alignkit.errors import UserError

FROZEN = "dph_frozen"
LOGGED = {
    "KL": "val/objective/kl",
    "KL by k3": "val/objective/kl_k3",
    "gold at the start": "start/val/objective/gold",
    "gold": "val/objective/gold",
    "accuracy": "val/rewards/accuracies",
    "implicit accuracy": "val/implicit_rewards/accuracies",
}
COUNTED = ("KL", "KL by k3", "nats a token", "change of nats a token", "gold", "best of N", "accuracy")


def answer(runs: Runs) -> Answer:
    """A row a way of training: KL of samples, held-out text, gold reward of one sample and of the best of N by the head, accuracy."""
    jobs = measured(runs)
    ways = jobs.groupby("way", sort=False)
    table = over_seeds(jobs, ["way"], COUNTED)
    table = table.drop(columns=[f"{name} {side}" for name in ("KL by k3", "nats a token", "accuracy") for side in ("low", "high")])
    table.insert(2, "weights kept", [f"{int(own['kept'].sum())} of {len(own)}" for _, own in ways])
    table.insert(3, "largest |KL|", ways["KL"].apply(lambda kls: kls.abs().max()).to_numpy())
    return Answer(table=table, figure=drawn(jobs), findings=tuple(findings(jobs)))


def measured(runs: Runs) -> pd.DataFrame:
    """A row a job: what its stages measured, each at the same seed."""
    config = {"decay": "optimizer.weight_decay"}
    jobs = rows_of(runs, "policy", config=config, results=LOGGED).set_index("job")
    if jobs.empty:
        raise UserError("language_model_kept: no policy is finished. Look into log.txt of the jobs.")
    before = rows_of(runs, "sft", results={"before": "val/loss"}).set_index("job")
    text = rows_of(runs, "text", results={"after": "start/val/loss"}).set_index("job")
    jobs["nats a token"] = text["after"]
    jobs["change of nats a token"] = text["after"] - before["before"]
    prints = runs.results["policy_fingerprint"]  # of the trunk before the first update: of `text`, the trunk that the policy left
    jobs["kept"] = [
        prints.get(text["run"].get(job, ""), "") == prints.get(run, None) for job, run in zip(jobs.index, jobs["run"], strict=True)
    ]
    sizes = best_of_sizes(runs.results)
    jobs["best of N"] = np.nan
    jobs["N"] = max(sizes, default=0)
    if sizes:
        best = rows_of(runs, "best", results={"best of N": f"best_of_{max(sizes)}/gold"}).set_index("job")
        jobs["best of N"] = best["best of N"]
    several = jobs.groupby("arm")["decay"].nunique() > 1
    jobs["way"] = [f"{arm} {decay:g}" if several[arm] else arm for arm, decay in zip(jobs["arm"], jobs["decay"], strict=True)]
    return jobs.reset_index()


def drawn(jobs: pd.DataFrame) -> Figure:
    """KL, held-out text and gold reward, a line a way of training, means with 95 % intervals."""
    ways = list(dict.fromkeys(jobs["way"]))
    figure, axes = panels(3, columns=3, height=0.9 + 0.32 * len(ways))
    columns = (
        ("KL", "KL of samples (nats)"),
        ("change of nats a token", "held-out text: change (nats a token)"),
        ("gold", "gold reward (score)"),
    )
    handles = {}
    for place, (column, words) in zip(axes, columns, strict=True):
        shown = [column, "best of N"] if column == "gold" else [column]
        for number, name in enumerate(shown):
            told = over_seeds(jobs, ["way"], [name])
            middle, rows = told[name].to_numpy(), np.arange(len(told)) + 0.22 * number - 0.11 * (len(shown) - 1)
            label = "one sample" if name != "best of N" else f"best of {int(jobs['N'].max())} by the head"
            handles[label] = place.errorbar(
                middle,
                rows,
                xerr=np.vstack([middle - told[f"{name} low"], told[f"{name} high"] - middle]),
                color=COLOURS[number],
                marker="os"[number],
                linestyle="",
                markersize=4,
                capsize=2,
                elinewidth=0.9,
            )
        place.set_yticks(range(len(ways)), ways if place is axes[0] else [""] * len(ways), fontsize=NORMAL)
        place.set_ylim(len(ways) - 0.5, -0.5)
        place.set_xlabel(words, fontsize=NORMAL)
        place.tick_params(labelsize=SMALL)
        if column != "gold":
            place.axvline(0, color="#b0b0b0", linewidth=0.8)
    seeds = int(jobs.groupby("way")["seed"].nunique().max())
    legend_below(figure, list(handles.values()), list(handles), title=f"mean and 95 % t interval over {seeds} seeds")  # type: ignore[arg-type]
    return figure


def findings(jobs: pd.DataFrame) -> list[str]:
    """What is exact under a frozen trunk, and how the others compare."""
    told = []
    frozen = jobs[jobs["arm"] == FROZEN]
    if len(frozen):
        exact = bool((frozen["KL"] == 0).all() and (frozen["KL by k3"] == 0).all() and frozen["kept"].all())
        change = frozen["change of nats a token"].abs().max()
        told.append(
            f"Under a frozen trunk {'all' if exact else 'not all'} of {len(frozen)} seeds have a KL of samples of exactly 0 and weights "
            f"that are equal to the bit; held-out text changes by {change:.1e} nats a token at most."
        )
    for way, own in jobs.groupby("way", sort=False):
        kl, start, gold = (spoken(interval(own[column].tolist())) for column in ("KL", "gold at the start", "gold"))
        perplexity = float((np.exp(own["change of nats a token"]) - 1).mean())
        line = f"{way}: KL {kl} nats, perplexity of held-out text {perplexity:+.1%}, gold reward of a sample {start} to {gold}"
        best = own["best of N"].dropna()
        if len(best):
            line += f", of the best of {int(own['N'].max())} by its head {spoken(interval(best.tolist()))}"
        told.append(f"{line}.")
    told += compared(jobs, "dph_decay 0.5", "dph_decay 0", "KL", "With decay towards the initial weights (0.5 against 0) KL is")
    told += compared(jobs, "dph_joint", "dpo", "KL", "KL of a head with joint cDPO is")
    told += compared(jobs, FROZEN, "dpo", "gold", "The best of N by a head on a frozen trunk is", left="best of N")
    return told


def compared(jobs: pd.DataFrame, one: str, other: str, right: str, words: str, *, left: str | None = None) -> list[str]:
    """The difference between two ways of training at equal seeds; nothing where one of them is missing."""
    ours, theirs = (jobs[jobs["way"] == way].set_index("seed") for way in (one, other))
    apart = (ours[left or right] - theirs[right]).dropna()
    if apart.empty:
        return []
    over = interval(apart.tolist())
    known = "the interval over seeds covers 0" if not (over.low > 0 or over.high < 0) else "the interval over seeds excludes 0"
    return [f"{words} {over.mean:+.2f} [{over.low:+.2f}, {over.high:+.2f}] next to {other} ({right}, equal seeds): {known}."]
