"""Training pairs over time, out of the ledgers that runs keep with `callbacks.ledger=true`: which are easy, which are not, which look
mislabelled.

A margin is what the pair was worth before the update that it was part of, so that its first one is a prediction of a label not yet seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from scipy.special import expit  # type: ignore[import-untyped]

from alignkit.analysis.json_lines import read_rows
from alignkit.analysis.runs import RUN, Runs
from alignkit.errors import UserError, did_you_mean
from alignkit.ledger_file import LedgerFile
from alignkit.run_dir import RunDir

Score = Literal["area", "area_scaled", "confidence", "early_loss", "first_margin"]
DEFAULT: Score = "area_scaled"
EARLY = 1
"""Epochs whose losses are `early_loss`: before a model learns labels by heart."""
KEY = "key"
VISITS = [RUN, KEY, "source", "step", "epoch", "margin", "implicit", "loss"]
WINDOW = 16
"""Steps over which margins have one scale."""


def visits_of(runs: Runs) -> pd.DataFrame:
    """A row a run, training pair and visit: `run`, `key` (place among the loaded training examples), `source` (part of a mixture, or
    empty), `step`, `epoch` from 0, and before that step's update `margin`, `implicit` (of the policy beside a head, else NaN), `loss`.

    Raises:
        UserError: when no run has a ledger, or one cannot be read.
    """
    found = [(run, file) for run, file in ledgers(runs).items() if file.about.exists()]
    if not found:
        raise UserError(f"no run of {len(runs.names)} has a ledger of its training pairs. Train with callbacks.ledger=true.")
    return pd.concat([_visits(run, file) for run, file in found], ignore_index=True)


def ledgers(runs: Runs) -> dict[str, LedgerFile]:
    """Where the ledger of each run would be; of runs on W&B's server there is none."""
    return {str(run): LedgerFile(folder=RunDir(Path(path)).ledger) for run, path in runs.info["path"].items() if isinstance(path, str)}


def read_visits(file: LedgerFile) -> pd.DataFrame:
    """The columns of `visits_of` but `run`, of one ledger.

    Raises:
        UserError: when it cannot be read.
    """
    try:
        records, sources = file.read(), file.sources()
    except (OSError, ValueError) as error:
        raise UserError(f"{file.folder}: cannot be read ({error}). Leave the run out, or delete the folder.") from None
    names = records.dtype.names or ()
    columns: dict[str, Any] = {name: records[name].astype(np.int64) for name in (KEY, "step", "epoch")}
    absent = np.full(len(records), np.nan)
    columns |= {name: records[name].astype(np.float64) if name in names else absent for name in ("margin", "implicit", "loss")}
    if len(records) and int(records["source"].max()) >= len(sources):
        raise UserError(f"{file.folder}: names parts of a mixture that {file.about.name} does not list. Leave the run out.")
    columns["source"] = np.array(sources, dtype=object)[records["source"]] if len(records) else np.array([], dtype=object)
    return pd.DataFrame(columns, columns=VISITS[1:])


def summaries(visits: pd.DataFrame) -> pd.DataFrame:
    """A row a run and pair of what `visits_of` returns, in their order.

    - `visits`, how often the pair was trained on; `source`
    - `area`, the mean margin over visits: for two labels, the area under the margin of Pleiss et al. 2020 (arXiv:2001.10528)
    - `area_scaled`, the same with each margin over the root mean square margin of the steps around, so that late, large margins weigh no
      more than early ones; of a run with a head, the mean of the head's and of the policy's
    - `first_margin`, `last_margin`
    - `confidence`, `variability`: mean and standard deviation of the chance sigmoid(margin) that it gives to the label, and `correctness`,
      how often that is more than a half: the data map of Swayamdipta et al. 2020 (arXiv:2009.10795)
    - `early_loss`, the mean loss in the first epoch (Arpit et al. 2017, arXiv:1706.05394: what is regular is learnt first)
    """
    known = visits[visits["margin"].notna()].sort_values([RUN, "step"], kind="stable")
    scaled = pd.concat([_scaled(known, "margin"), _scaled(known, "implicit")], axis=1).mean(axis=1)
    chance = pd.Series(expit(known["margin"]), index=known.index)
    first = known["epoch"].groupby(known[RUN], sort=False).transform("min")
    early = known["loss"].where(known["epoch"] < first + EARLY)
    right = (1 + np.sign(known["margin"])) / 2
    marked = known.assign(scaled=scaled, chance=chance, early=early, right=right)
    told = marked.groupby([RUN, KEY], sort=False).agg(
        source=("source", "first"),
        visits=("margin", "size"),
        area=("margin", "mean"),
        area_scaled=("scaled", "mean"),
        first_margin=("margin", "first"),
        last_margin=("margin", "last"),
        confidence=("chance", "mean"),
        correctness=("right", "mean"),
        early_loss=("early", "mean"),
    )
    spread = marked.groupby([RUN, KEY], sort=False)["chance"].std(ddof=0)
    return told.assign(variability=spread).reset_index()


def suspicion(summary: pd.DataFrame, score: Score = DEFAULT) -> pd.Series[float]:
    """How much each row of `summaries` looks mislabelled, more is worse; -inf where its run knows nothing of it.

    Raises:
        UserError: on a score that there is not.
    """
    if score not in get_args(Score):
        raise UserError(f"score = {score!r}; must be one of {', '.join(get_args(Score))}.{did_you_mean(score, get_args(Score))}")
    values = summary[score] if score == "early_loss" else -summary[score]
    return values.astype(float).fillna(-np.inf)


def ranked(summary: pd.DataFrame, score: Score = DEFAULT) -> pd.DataFrame:
    """Pairs over all runs, the most suspicious first: `key`, `source`, `runs`, `suspicion` (the mean over runs of the share of pairs that
    look better; in [0, 1]), and the means of the other columns of `summaries`. For runs on the same data, whose keys mean the same.

    Raises:
        UserError: on a score that there is not.
    """
    shares = suspicion(summary, score).groupby(summary[RUN], sort=False).rank(pct=True)
    numbers = [name for name in summary if name not in (RUN, KEY, "source")]
    grouped = summary.assign(suspicion=shares).groupby(KEY, sort=False)
    told = grouped[["suspicion", *numbers]].mean().assign(source=grouped["source"].first(), runs=grouped.size())
    return told.sort_values("suspicion", ascending=False, kind="stable").reset_index()


def suspects_of(runs: Runs) -> pd.DataFrame:
    """A row a run and suspect that it named when it ended, the most suspicious first: `run`, `key`, `rank` from 1, `row` (where the data
    hold it, or None), `source`, `prompt`, `chosen`, `rejected`, `visits`, `area`, `area_scaled`, `confidence`, `variability`. Empty where
    no run named any."""
    found = [
        {RUN: run, **row}
        for run, file in ledgers(runs).items()
        for row in read_rows(file.suspects)
        if all(isinstance(row.get(name), str) for name in TEXTS) and isinstance(row.get(SCALED), int | float)
    ]
    return pd.DataFrame(found, columns=[RUN, *SUSPECT])


TEXTS = ["prompt", "chosen", "rejected"]
SCALED = "area_scaled"
SUSPECT = [KEY, "rank", "row", "source", *TEXTS, "visits", "area", SCALED, "confidence", "variability"]


def recall(scores: Sequence[float], flipped: Sequence[bool], *, share: float = 0.1) -> float:
    """Of pairs that are known to be flipped, how many are among the given share of all with the highest scores. NaN of none."""
    wrong = np.asarray(flipped, dtype=bool)
    most = round(len(wrong) * share)
    top = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")[:most]
    return float(wrong[top].sum() / wrong.sum()) if wrong.any() else float("nan")


def _visits(run: str, file: LedgerFile) -> pd.DataFrame:
    visits = read_visits(file)
    visits.insert(0, RUN, run)
    return visits


def _scaled(visits: pd.DataFrame, column: str) -> pd.Series[float]:
    """Values over their root mean square in the same window of steps of their run."""
    windows = [visits[RUN], visits["step"] // WINDOW]
    scale = np.sqrt((visits[column] ** 2).groupby(windows, sort=False).transform("mean"))
    scaled: pd.Series[float] = (visits[column] / scale).where(scale > 0, 0.0).where(visits[column].notna())
    return scaled
