"""Training pairs that look mislabelled, of runs that kept a ledger of them: which ones, where they stand, and a map of all."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, final

import pandas as pd

from alignkit.analysis.figures.data_map import data_map
from alignkit.analysis.ledger import SCALED, TEXTS, ledgers, ranked, summaries, suspects_of, visits_of
from alignkit.analysis.runs import RUN, Runs
from alignkit.errors import UserError
from alignkit.reporting.disputes import MOST_PAIRS, beginning, ending
from alignkit.reporting.numbers import fixed

TOP = 0.1
"""Share of pairs that the map marks."""
DATA = "dataset."
"""Prefix of the config's keys that say what the data are."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Mislabelled:
    """A pair, as it is shown."""

    prompt: str
    chosen: str
    rejected: str
    runs: str
    """How many name it, of how many."""
    margin: str
    place: str
    """Its part of a mixture and its row, where they are known."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerPage:
    """What the page tells of training pairs."""

    runs: int
    """That kept a ledger."""
    pairs: int
    """Different ones of the map."""
    visits: int
    """Of the map's runs together."""
    mapped: int
    """Runs on the same data, whose means the map shows."""
    shown: tuple[Mislabelled, ...]
    figure: str
    """A `data:` address; empty where there is none."""
    trouble: str
    """Why there is no map."""


def mislabelled_of(runs: Runs) -> LedgerPage:
    """What ledgers say; of nothing where no run kept one."""
    kept = [run for run, file in ledgers(runs).items() if file.about.exists()]
    if not kept:
        return LedgerPage(runs=0, pairs=0, visits=0, mapped=0, shown=(), figure="", trouble="")
    suspects = suspects_of(runs)
    shown = tuple(map(as_shown, worst(suspects).to_dict("records"))) if not suspects.empty else ()
    alike = on_the_same_data(runs, kept)
    trouble, visits, pairs, figure = "", 0, 0, ""
    try:
        table = visits_of(runs.only(runs.info.index.to_series().isin(alike)))
        told = ranked(summaries(table))
        visits, pairs = len(table), len(told)
        if pairs:
            marked = told.index < TOP * pairs
            figure = image(told, list(marked))
    except UserError as error:
        trouble = str(error)
    return LedgerPage(runs=len(kept), pairs=pairs, visits=visits, mapped=len(alike), shown=shown, figure=figure, trouble=trouble)


def worst(suspects: pd.DataFrame) -> pd.DataFrame:
    """Pairs by their texts: those that most runs name come first, then those that they name earliest."""
    runs = suspects[RUN].nunique()
    grouped = suspects.groupby(TEXTS, sort=False)
    told = grouped.agg(
        named=(RUN, "nunique"),
        rank=("rank", "mean"),
        margin=(SCALED, "mean"),
        row=("row", "first"),
        source=("source", "first"),
    ).reset_index()
    return told.assign(runs=runs).sort_values(["named", "rank"], ascending=[False, True], kind="stable").head(MOST_PAIRS)


def as_shown(row: Mapping[Hashable, Any]) -> Mislabelled:
    """A row of `worst` in words."""
    # Of a file its name is enough, and short.
    place = [os.path.basename(str(row[name])) for name in ("source", "row") if isinstance(row[name], str) and row[name]]
    return Mislabelled(
        prompt=ending(str(row["prompt"])),
        chosen=beginning(str(row["chosen"])),
        rejected=beginning(str(row["rejected"])),
        runs=f"{row['named']} of {row['runs']}",
        margin=fixed(float(str(row["margin"])), 2),
        place=", ".join(place),
    )


def on_the_same_data(runs: Runs, kept: list[str]) -> list[str]:
    """Of runs with a ledger, as many as possible that were trained on the same data: their keys mean the same pairs."""
    columns = [name for name in runs.config if str(name).startswith(DATA)]
    groups: dict[str, list[str]] = {}
    for run in kept:
        groups.setdefault(repr([runs.config.at[run, name] for name in columns]), []).append(run)
    return max(groups.values(), key=len)


def image(told: pd.DataFrame, marked: list[bool]) -> str:
    """The map as an address."""
    content = io.BytesIO()
    data_map(told["confidence"].tolist(), told["variability"].tolist(), marked).savefig(content, format="png", dpi=180)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
