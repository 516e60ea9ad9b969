"""Whether the true reward falls while a learned one rises: `experiment=over_optimisation`. Gao et al. 2022 (arXiv:2210.10760).

d is the square root of KL(policy | reference) in nats. Gains are rewards minus those of the supervised policy: the reward model's own in
standard deviations over its samples, the true one's in VADER's unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from alignkit.analysis.answer import Answer, over_seeds, rows_of, spoken
from alignkit.analysis.contrasts import chosen, contrast, sign, told
from alignkit.analysis.peaks import BEST_OF_N, TRAINED, Shape, at, falls, fitted
from alignkit.analysis.policies import best_of_sizes
from alignkit.analysis.runs import RUN, Runs
from alignkit.analysis.style import legend_below, looks, name_axes, panels
from alignkit.analysis.sweeps import SEED, interval
from alignkit.errors import UserError
from alignkit.metrics import GOLD, KL, SCORES, VALIDATION

PPO, BEST = "PPO", "best of N"
SHAPES: dict[str, Shape] = {PPO: TRAINED, BEST: BEST_OF_N}
TRUE = "the true reward"
CURVES = (VALIDATION + KL, VALIDATION + SCORES, VALIDATION + GOLD)
BY = ["method", "reward"]
VALUES = ("d, end", "own reward, end", "gold, end", "fall", "alpha", "beta")


def answer(runs: Runs) -> Answer:
    """A row a method and reward: how far it went, what both rewards gained, where gold was highest, and whether it fell from there."""
    points = measured(runs)
    ends = ends_of(points)
    table = over_seeds(ends, BY, VALUES)
    peaks = [peak_of(chosen(points, {"method": row.method, "reward": row.reward})) for row in table.itertuples()]
    table.insert(3, "d, peak", [d for d, _ in peaks])
    table.insert(4, "gold, peak", [gold for _, gold in peaks])
    return Answer(table=table, figure=drawn(points, table), findings=tuple(findings(points, ends, table)))


def measured(runs: Runs) -> pd.DataFrame:
    """A row a validation of PPO, or a number N of samples: `method`, `reward` (what it learns from), `seed`, `place` (step or N), `d`,
    `own` and `gold`, both as gains.

    Raises:
        UserError: when no PPO is finished.
    """
    models = rows_of(runs, "reward", config={"pairs": "dataset.pairs"}).sort_values("pairs")
    named = {job: f"{pairs:g} preferences" for job, pairs in zip(models["job"], models["pairs"], strict=True)}
    trained, sampled = rows_of(runs, "ppo"), rows_of(runs, "best")
    if trained.empty:
        raise UserError("over_optimisation: no PPO is finished. Type the same command again with its run_dir=.")
    told_of = [(PPO, trained, course_of_training), (BEST, sampled, course_of_samples)]
    tables = [
        course(runs, run).assign(method=method, reward=named.get(job, TRUE), seed=seed)
        for method, rows, course in told_of
        for job, run, seed in zip(rows["job"], rows[RUN], rows[SEED], strict=True)
    ]
    points = pd.concat(tables, ignore_index=True)
    points["reward"] = pd.Categorical(points["reward"], [*dict.fromkeys(named.values()), TRUE])
    return points.sort_values(["reward", "method", SEED, "place"]).astype({"reward": object})


def course_of_training(runs: Runs, run: str) -> pd.DataFrame:
    """`place`, `d`, `own` and `gold` at the validations of a PPO run."""
    rows = runs.history[runs.history[RUN] == run].dropna(subset=list(CURVES))
    return gains(rows["step"].tolist(), *(rows[name].to_numpy(dtype=np.float64) for name in CURVES))


def course_of_samples(runs: Runs, run: str) -> pd.DataFrame:
    """The same at each N of a run that ranked samples. Its KL is the bound ln N - (N - 1) / N."""
    results = runs.results.loc[run].dropna()
    counts = best_of_sizes(results.index)
    values = (np.array([results[f"best_of_{n}/{part}"] for n in counts], dtype=np.float64) for part in ("kl_bound", "score", "gold"))
    return gains(counts, *values)


def gains(places: Sequence[int], kl: np.ndarray, own: np.ndarray, gold: np.ndarray) -> pd.DataFrame:
    """Distances, and rewards minus those of the first place."""
    d = np.sqrt(np.maximum(kl, 0.0))  # an estimate of a KL near 0 may be below it
    return pd.DataFrame({"place": places, "d": d, "own": own - own[:1], "gold": gold - gold[:1]})


def ends_of(points: pd.DataFrame) -> pd.DataFrame:
    """A row a run: the last place, the fit, and the fall from the peak that the other seeds have."""
    rows = []
    for (method, reward), same in points.groupby(BY, sort=False):
        grid = same.pivot(index=SEED, columns="place", values="gold").dropna(axis="columns")
        fell = dict(zip(grid.index, falls(grid.to_numpy()), strict=True))
        for seed, own in same.groupby(SEED):
            last = own.iloc[-1]
            alpha, beta = fitted(SHAPES[str(method)], own["d"].to_numpy(), own["gold"].to_numpy())
            rows.append((method, reward, seed, last["d"], last["own"], last["gold"], fell.get(seed, math.nan), alpha, beta))
    return pd.DataFrame(rows, columns=[*BY, SEED, *VALUES])


def peak_of(same: pd.DataFrame) -> tuple[float, float]:
    """d and gold where the mean over seeds is highest."""
    means = same.groupby("place")[["d", "gold"]].mean()
    best = means.iloc[int(means["gold"].argmax())]
    return float(best["d"]), float(best["gold"])


def drawn(points: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Gold above the reward that is optimised, against d; a column a method, a line a reward model."""
    methods = [method for method in SHAPES if method in set(points["method"])]
    figure, axes = panels(2 * len(methods), columns=len(methods), height=2.4)
    styles = looks(map(str, points["reward"]))
    handles: dict[str, ErrorbarContainer] = {}
    for place, (value, method) in zip(axes, [(value, method) for value in ("gold", "own") for method in methods], strict=True):
        for reward, same in points[points["method"] == method].groupby("reward", sort=False):
            if value == "own" and reward == TRUE:
                continue  # it is gold, in another unit than the others
            look, means = styles[str(reward)], over_seeds(same, ["place"], ["d", value]).sort_values("place")
            bars = (means[f"{value} high"] - means[value]).to_numpy() if means[f"{value} high"].notna().any() else None
            drawn_line = place.errorbar(
                means["d"],
                means[value],
                yerr=bars,
                color=look.colour,
                marker=look.marker,
                linestyle=look.line,
                markersize=3.5,
                linewidth=1.1,
                elinewidth=0.5,
            )
            handles.setdefault(str(reward), drawn_line)
            row = chosen(table, {"method": method, "reward": reward}).iloc[0]
            if value == "gold" and math.isfinite(row["beta"]):
                d = np.linspace(0.0, float(means["d"].max()), 100)
                place.plot(d, SHAPES[method].gain(d, row["alpha"], row["beta"]), color=look.colour, linewidth=2.4, alpha=0.25)
        if value == "gold":
            place.set_title(method, loc="left", fontsize=8)
        name_axes(
            place, "d: root of KL(policy | reference)" if value == "own" else "", f"gain of {'gold' if value == 'gold' else 'own reward'}"
        )
    title = "bars: 95 % t intervals over seeds; pale: fits of gold; best of N: bound of its KL"
    legend_below(figure, list(handles.values()), list(handles), title=title)  # type: ignore[arg-type]
    return figure


def findings(points: pd.DataFrame, ends: pd.DataFrame, table: pd.DataFrame) -> list[str]:
    """Each course in a sentence or two, then few preferences against many."""
    lines = []
    for row in table.to_dict("records"):
        method, reward = str(row["method"]), str(row["reward"])
        own = chosen(ends, {"method": method, "reward": reward})
        over = {value: interval(own[value].dropna().astype(float).tolist()) for value in VALUES}
        lines.append(
            f"{method} on {reward}: at its end, d {over['d, end'].mean:.2f}, the reward that it optimises has gained "
            f"{spoken(over['own reward, end'])} and gold {spoken(over['gold, end'])}. Mean gold is highest at d {row['d, peak']:.2f} with "
            f"{row['gold, peak']:.2f}; from the peak of the other seeds to the end it "
            f"{told(over['fall'], ('falls', 'rises', 'does not clearly fall'))}, by {spoken(over['fall'])}."
        )
        lines.append(f"{method} on {reward}: gold as {SHAPES[method].words}: {fit_told(SHAPES[method], own, float(row['d, end']))}")
    for method in SHAPES:
        lines += few_against_many(chosen(points, {"method": method}), chosen(table, {"method": method}), method)
    return lines


def fit_told(shape: Shape, own: pd.DataFrame, reached: float) -> str:
    """Parameters with their intervals, and the peak where the fit has one within what was reached."""
    alpha, beta = (interval(own[name].dropna().tolist()) for name in ("alpha", "beta"))
    if math.isnan(alpha.mean):
        return "too few places to fit."
    told_of = f"alpha {spoken(alpha)}, beta {spoken(beta)} (fits of each seed, their mean and 95 % interval)"
    if sign(beta) < 1:
        return f"{told_of}; no fall seen, since beta is not clearly above 0."
    peak = shape.highest(alpha.mean, beta.mean)
    if peak > reached:
        return f"{told_of}; no fall seen: its peak, d {peak:.2f}, lies beyond the end, d {reached:.2f}."
    return f"{told_of}; its peak is at d {peak:.2f}."


def few_against_many(points: pd.DataFrame, table: pd.DataFrame, method: str) -> list[str]:
    """Gold of the model of most preferences against that of fewest, at the farthest d that all of their runs reach; and their peaks."""
    rewards = [str(reward) for reward in dict.fromkeys(points["reward"]) if reward != TRUE]
    if len(rewards) < 2:
        return []
    few, many = rewards[0], rewards[-1]
    runs = points[points["reward"].isin([few, many])].groupby(["reward", SEED], sort=False)
    far = float(runs["d"].max().min())
    rows = [(reward, seed, at(own["d"].to_numpy(), own["gold"].to_numpy(), far)) for (reward, seed), own in runs]
    apart = contrast(pd.DataFrame(rows, columns=["reward", SEED, "gold"]), "gold", {"reward": many}, {"reward": few})
    peaks, reached = ([float(chosen(table, {"reward": reward})[value].iloc[0]) for reward in rewards] for value in ("d, peak", "d, end"))
    places = [
        f"{peak:.2f}{' or later' if peak == end else ''} ({reward})" for peak, end, reward in zip(peaks, reached, rewards, strict=True)
    ]
    moves = "in the order of preferences" if peaks == sorted(peaks) else "not in the order of preferences"
    if peaks == reached:
        moves = "the end of each course, so that none of them was seen to fall"
    return [
        f"{method}, at d {far:.2f}, which all of these runs reach: gold on {many} is "
        f"{told(apart, ('higher than', 'lower than', 'not told apart from'))} gold on {few}, by {spoken(apart)} at equal seeds.",
        f"{method}: the peaks of mean gold lie at d {', '.join(places)}, {moves}.",
    ]
