"""The answer of an experiment that brings none of its own: the last stages' results, side by side (`answer: comparison`)."""

from __future__ import annotations

import pandas as pd

from alignkit.analysis.answer import Answer, over_seeds, spoken, stages
from alignkit.analysis.figures.curves import curves
from alignkit.analysis.measures import direction, measure
from alignkit.analysis.runs import Runs
from alignkit.analysis.sweeps import SEED, interval
from alignkit.errors import UserError

VALIDATION = "val/"


def answer(runs: Runs) -> Answer:
    """A row a setting of the last stages: their held-out results that have a direction, with intervals over seeds."""
    known = stages(runs)
    last = known.groupby("job", sort=False).tail(1).drop_duplicates("run")
    own = runs.only(runs.info.index.to_series().isin(last["run"]))
    keys = [key for key in own.varied() if key != SEED]
    metrics = [str(name) for name in own.results if str(name).startswith(VALIDATION) and is_sought(str(name))]
    if not metrics:
        raise UserError("comparison: the last stages have no held-out result of which more or less is better.")
    rows = own.config[[*keys, SEED]].astype(object)
    rows = rows.where(rows.notna(), "").join(own.results[metrics].apply(pd.to_numeric, errors="coerce"))
    rows.insert(0, "arm", last.set_index("run")["arm"])
    by = ["arm", *keys]
    table = over_seeds(rows, by, metrics)
    return Answer(table=table, figure=curves(own, metrics[:4]), findings=tuple(findings(rows, by, metrics)))


def is_sought(name: str) -> bool:
    """Whether more or less of a metric is better."""
    known = measure(name)
    return known is not None and known.better != "neither"


def findings(rows: pd.DataFrame, by: list[str], metrics: list[str]) -> list[str]:
    """Which setting has the best mean of each metric."""
    told = []
    for metric in metrics:
        means = rows.groupby(by, sort=False)[metric].mean().dropna()
        if means.empty:
            continue
        best = means.idxmax() if direction(metric, None) == "higher" else means.idxmin()
        values = best if isinstance(best, tuple) else (best,)
        own = rows[(rows[by] == list(values)).all(axis="columns")][metric].dropna()
        words = ", ".join(f"{key} {value}" for key, value in zip(by, values, strict=True) if value != "")
        told.append(f"{metric}: best is {words} with {spoken(interval(own.tolist()), 3)} over {len(own)} seeds.")
    return told
