"""How many labels a reward model saves that chooses which pairs are labelled: `experiment=active_learning`.

A job is a curve: accuracy on clean held-out pairs over labels. Single points of it wobble by more than a round of labels brings, and
taking the first point above a level would reward wobbling. So a curve is replaced by the nearest one that never falls (isotonic least
squares), between whose points a line is drawn. The fixed accuracy is the highest whole per cent that `random` reaches in the mean with all
of its labels; a run that does not get there counts as if it did with the last one. Curves of single runs are flat where they reach it, so
that their wobbling still hides much; the curve that is the mean over seeds has less of it, and its interval is over resamples of seeds.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression  # type: ignore[import-untyped]

from alignkit.analysis.answer import Answer, over_seeds, rows_of, spoken, stages
from alignkit.analysis.contrasts import told
from alignkit.analysis.runs import Runs
from alignkit.analysis.style import BAND, legend_below, looks, name_axes, panels
from alignkit.analysis.sweeps import SEED, interval, p_value
from alignkit.errors import UserError
from alignkit.metrics import ACCURACIES, VALIDATION

BASELINE = "random"
DRAWS = 2000
"""Resamples of the seeds."""
FIRST, LAST, ROUND = "first", "last", "reward_"
"""Stages: the first labels, the reward model on all labels, and those before it."""


def answer(runs: Runs) -> Answer:
    """A row a share of wrong labels, a way to choose and a number of labels: accuracy, and next to `random` at equal seeds."""
    rows = measured(runs)
    table = over_seeds(rows, ["noise", "arm", "labels"], ["accuracy"])
    apart = [against(rows, *key) for key in zip(table["noise"], table["arm"], table["labels"], strict=True)]
    means = [interval(values) for values in apart]
    name = f"minus {BASELINE}"
    table[name], table[f"{name} low"], table[f"{name} high"] = zip(*((one.mean, one.low, one.high) for one in means), strict=True)
    return Answer(table=table.rename(columns={"arm": "query"}), figure=drawn(rows), findings=tuple(findings(rows)))


def measured(runs: Runs) -> pd.DataFrame:
    """A row a reward model, in the order of its labels: `noise`, `arm`, `seed`, `labels`, `accuracy`.

    Raises:
        UserError: when none is finished.
    """
    names = [name for name in dict.fromkeys(stages(runs)["stage"]) if name.startswith(ROUND) or name == LAST]
    found = [rows_of(runs, name, results={"accuracy": VALIDATION + ACCURACIES, "labels": "data/train"}) for name in names]
    rows = pd.concat(found) if found else pd.DataFrame()
    if rows.empty:
        raise UserError("active_learning: no reward model is finished. Type the same command again with its run_dir=.")
    noise = rows_of(runs, FIRST, config={"noise": "dataset.noise"}).set_index("job")["noise"]
    return rows.assign(noise=rows["job"].map(noise)).sort_values(["noise", "arm", SEED, "labels"], kind="stable").reset_index(drop=True)


def against(rows: pd.DataFrame, noise: float, arm: str, labels: float) -> list[float]:
    """Accuracy minus that of `random` at as many labels, seed by seed; nothing for `random` itself."""
    if arm == BASELINE:
        return []
    own = rows[(rows["noise"] == noise) & (rows["labels"] == labels)].set_index(SEED)
    return list((own[own["arm"] == arm]["accuracy"] - own[own["arm"] == BASELINE]["accuracy"]).dropna())


def never_falling(accuracies: np.ndarray) -> np.ndarray:
    """The nearest curve, in least squares, that never falls."""
    nearest: np.ndarray = isotonic_regression(accuracies).x
    return nearest


def labels_for(level: float, labels: np.ndarray, accuracies: np.ndarray) -> float:
    """Labels with which a curve that never falls reaches a level: its first point there, or between that and the one before where a
    line through both does; NaN for a curve that does not get there."""
    there = np.flatnonzero(accuracies >= level - 1e-12)
    if len(there) == 0:
        return math.nan
    place = there[0]
    if place == 0:
        return float(labels[0])
    before, after = accuracies[place - 1], accuracies[place]
    return float(labels[place - 1] + (labels[place] - labels[place - 1]) * (level - before) / (after - before))


def reached(rows: pd.DataFrame) -> tuple[float, pd.DataFrame]:
    """The fixed accuracy for rows of one share of wrong labels, some of which are `random`, and a row a curve with the labels that it
    takes, `needed`, NaN where it does not get there."""
    curves = {
        key: (own["labels"].to_numpy(float), never_falling(own["accuracy"].to_numpy(float))) for key, own in rows.groupby(["arm", SEED])
    }
    ends = [float(accuracies[-1]) for (arm, _), (_, accuracies) in curves.items() if arm == BASELINE]
    level = math.floor(100 * sum(ends) / len(ends) + 1e-9) / 100
    return level, pd.DataFrame([(*key, labels_for(level, *curve)) for key, curve in curves.items()], columns=["arm", SEED, "needed"])


def drawn(rows: pd.DataFrame) -> Figure:
    """Accuracy over labels, a panel a share of wrong labels, a line with its band a way to choose."""
    noises = list(dict.fromkeys(rows["noise"]))
    figure, axes = panels(len(noises), columns=2, width=None if len(noises) > 1 else 4.6)
    styles, handles = looks(map(str, rows["arm"])), {}
    for place, noise in zip(axes, noises, strict=True):
        for arm, own in rows[rows["noise"] == noise].groupby("arm", sort=False):
            look = styles[str(arm)]
            means = over_seeds(own, ["labels"], ["accuracy"]).sort_values("labels")
            (handles[str(arm)],) = place.plot(
                means["labels"], means["accuracy"], color=look.colour, marker=look.marker, linestyle=look.line, markersize=4, linewidth=1.3
            )
            place.fill_between(means["labels"], means["accuracy low"], means["accuracy high"], color=look.colour, alpha=BAND, linewidth=0)
        name_axes(place, f"labels, {noise:.0%} of them wrong", "accuracy, clean held-out pairs")
    seeds = int(rows.groupby(["noise", "arm"])[SEED].nunique().max())
    legend_below(figure, list(handles.values()), list(handles), title=f"bands: 95 % t intervals over {seeds} seeds")
    return figure


def findings(rows: pd.DataFrame) -> list[str]:
    """Labels saved at the fixed accuracy, and what is gained at equal labels."""
    lines = []
    for noise in map(float, sorted(set(rows["noise"]))):
        of_noise = rows[rows["noise"] == noise]
        if BASELINE not in set(of_noise["arm"]):
            continue
        level, curves = reached(of_noise)
        most = float(of_noise["labels"].max())
        needed = {str(arm): own.set_index(SEED)["needed"].fillna(most) for arm, own in curves.groupby("arm")}
        words = ", ".join(f"{arm} {spoken(interval(list(own)), 0)}" for arm, own in needed.items())
        short = ", ".join(f"{arm} {own['needed'].isna().sum()} of {len(own)}" for arm, own in curves.groupby("arm"))
        lines.append(
            f"With {noise:.0%} of labels wrong, {BASELINE} reaches an accuracy of {level:.2f} in the mean with all {most:g} labels. Labels "
            f"that it takes: {words}. Runs that do not get there, and count as {most:g}: {short}."
        )
        for arm, own in needed.items():
            if arm == BASELINE:
                continue
            lines += [saved_in_the_mean(of_noise, arm, level), saved(noise, arm, own, needed[BASELINE]), gained(of_noise, noise, arm)]
    return lines


def saved(noise: float, arm: str, own: pd.Series, baseline: pd.Series) -> str:
    """How many labels fewer a way to choose takes."""
    both = pd.concat([baseline.rename("baseline"), own.rename("own")], axis="columns", join="inner")
    fewer = list(both["baseline"] - both["own"])
    over, p = interval(fewer), p_value(fewer)
    share = both["own"].sum() / both["baseline"].sum()
    return (
        f"With {noise:.0%} wrong, {arm} takes {told(over, ('fewer labels than', 'more labels than', 'not clearly fewer labels than'))} "
        f"{BASELINE}: {spoken(over, 0)} fewer at equal seeds (p = {p:.2g}), {share:.0%} of its labels."
    )


def saved_in_the_mean(rows: pd.DataFrame, arm: str, level: float) -> str:
    """How many labels fewer the mean curve of a way to choose takes than that of `random`, over the seeds that both have."""
    tables = [rows[rows["arm"] == kind].pivot(index=SEED, columns="labels", values="accuracy").dropna() for kind in (arm, BASELINE)]
    seeds = tables[0].index.intersection(tables[1].index)
    own, baseline = (needed_by_means(table.loc[seeds].to_numpy(float), table.columns.to_numpy(float), level) for table in tables)
    low, high = np.quantile(baseline[1:] - own[1:], [0.025, 0.975])
    return (
        f"In the mean over {len(seeds)} seeds {arm} reaches {level:.2f} with {own[0]:.0f} labels and {BASELINE} with {baseline[0]:.0f}: "
        f"{baseline[0] - own[0]:.0f} [{low:.0f}, {high:.0f}] fewer (95 % of resamples of the seeds), {own[0] / baseline[0]:.0%}."
    )


def needed_by_means(accuracies: np.ndarray, labels: np.ndarray, level: float) -> np.ndarray:
    """Labels that the mean over seeds of curves [S, L] takes: of all seeds, then of `DRAWS` resamples of them, the same in every call."""
    draws = np.random.default_rng(0).integers(len(accuracies), size=(DRAWS, len(accuracies)))
    curves = [accuracies.mean(0), *accuracies[draws].mean(1)]
    found = [labels_for(level, labels, never_falling(curve)) for curve in curves]
    return np.where(np.isnan(found), labels[-1], found)


def gained(rows: pd.DataFrame, noise: float, arm: str) -> str:
    """Accuracy at equal labels: the mean of all rounds after the first, which is the same for all."""
    later = rows[rows["labels"] > rows["labels"].min()]
    means = {kind: later[later["arm"] == kind].groupby(SEED)["accuracy"].mean() for kind in (arm, BASELINE)}
    last = {kind: rows[(rows["arm"] == kind) & (rows["labels"] == rows["labels"].max())].set_index(SEED)["accuracy"] for kind in means}
    mean, end = (interval(list((of[arm] - of[BASELINE]).dropna())) for of in (means, last))
    return (
        f"With {noise:.0%} wrong, {arm} against {BASELINE} at equal labels: accuracy {spoken(mean, 3)} higher in the mean of all rounds, "
        f"{spoken(end, 3)} with all {rows['labels'].max():g} labels."
    )
