"""What an experiment ends with: a table, a figure and sentences, all of them computed from the runs that it left."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from alignkit.analysis.run_files import DONE, PIPELINE, SWEEP
from alignkit.analysis.runs import Runs
from alignkit.analysis.sweeps import Interval, interval
from alignkit.errors import UserError
from alignkit.markdown import escaped
from alignkit.terminal import visible

FOLDER = "answer"
"""In an experiment's directory: where its answer lies."""
TABLE, PAGE, FINDINGS, FIGURE = "table.csv", "table.md", "findings.md", "figure"
DOTS_PER_INCH = 200
"""Of figure.png."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the runs say."""

    table: pd.DataFrame
    """Rows for people: a method or a setting each, means with intervals over seeds."""
    figure: Figure
    findings: tuple[str, ...]
    """Plain sentences with the numbers in them, whichever way they fell."""


def stages(runs: Runs) -> pd.DataFrame:
    """Who is who: a row for every finished stage of every job, with `job`, `arm`, `pipeline`, `stage` and `run`, its name among the runs.

    A stage that jobs share was run once, in the directory of one of them; here each of the jobs has it.

    Raises:
        UserError: when the runs are no sweep of pipelines, or no stage is finished.
    """
    names = {path: run for run, path in runs.info["path"].items() if isinstance(path, str)}
    rows = []
    for folder in map(Path, runs.info["folder"].dropna().unique()):
        if not (folder / SWEEP).exists():
            continue
        for job in json.loads((folder / SWEEP).read_text(encoding="utf-8")):
            place = folder / job["run"]
            if not (place / PIPELINE).exists():
                continue
            told = json.loads((place / PIPELINE).read_text(encoding="utf-8"))
            for stage in told["stages"]:
                run = names.get(str((place / stage["directory"]).resolve()))
                if run is not None and stage["status"] == DONE:
                    rows.append((job["job"], job.get("arm", ""), told["pipeline"], stage["stage"], run))
    if not rows:
        raise UserError("these runs are no sweep of pipelines with a finished stage. Give the directory of an experiment.")
    return pd.DataFrame(rows, columns=["job", "arm", "pipeline", "stage", "run"])


def rows_of(runs: Runs, stage: str, *, config: Mapping[str, str] = {}, results: Mapping[str, str] = {}) -> pd.DataFrame:
    """A row for each job that has finished a stage: `job`, `arm`, `pipeline`, `run`, `seed`, and so named columns of config keys and of
    results of the stage's run. NaN where a run has no such result.

    rows_of(runs, "ppo", config={"strength": "loss.kl_coefficient"}, results={"kl": "val/objective/kl"})
    """
    known = stages(runs)
    own = known[known["stage"] == stage].drop(columns="stage").reset_index(drop=True)
    for column, key in {"seed": "seed", **config}.items():
        own[column] = own["run"].map(runs.config[key]) if key in runs.config else np.nan
    for column, name in results.items():
        own[column] = pd.to_numeric(own["run"].map(runs.results[name]), errors="coerce") if name in runs.results else np.nan
    return own


def over_seeds(rows: pd.DataFrame, by: Sequence[str], values: Sequence[str]) -> pd.DataFrame:
    """A row a combination of `by`, in the order in which they come: `seeds`, and of each of `values` the mean over seeds, and as
    `<value> low` and `<value> high` its 95 % interval."""
    told = []
    for combination, group in rows.groupby(list(by), sort=False, dropna=False):
        row = dict(zip(by, combination, strict=True)) | {"seeds": len(group)}
        for value in values:
            over = interval(group[value].dropna().astype(float).tolist())
            row |= {value: over.mean, f"{value} low": over.low, f"{value} high": over.high}
        told.append(row)
    return pd.DataFrame(told)


def spoken(over: Interval, digits: int = 2) -> str:
    """`0.61 [0.55, 0.67]`: a mean and its 95 % interval, which one seed has none of."""
    mean = f"{over.mean:.{digits}f}"
    return mean if math.isnan(over.low) else f"{mean} [{over.low:.{digits}f}, {over.high:.{digits}f}]"


def write_answer(answer: Answer, folder: Path, question: str) -> None:
    """The files of `answer/` in an experiment's directory. Those of an earlier answer are written over."""
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    answer.table.rename(columns=no_formula).map(no_formula).to_csv(place / TABLE, index=False)
    (place / PAGE).write_text(markdown(answer.table) + "\n", encoding="utf-8")
    told = [f"# {question}", "", *(f"- {escaped(finding)}" for finding in answer.findings), ""]
    (place / FINDINGS).write_text("\n".join(told), encoding="utf-8")
    with rc_context({"svg.hashsalt": "alignkit", "svg.fonttype": "none"}):  # the same runs give the same file
        answer.figure.savefig(place / f"{FIGURE}.svg", metadata={"Date": None})
    answer.figure.savefig(place / f"{FIGURE}.png", dpi=DOTS_PER_INCH)


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown has it: numbers with four significant digits, on the right."""
    numeric = [pd.api.types.is_numeric_dtype(table[column]) for column in table]
    lines = [[escaped(str(column)) for column in table], ["---:" if own else "---" for own in numeric]]
    lines += [[escaped(cell(value)) for value in row] for row in table.itertuples(index=False, name=None)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: object) -> str:
    """A value for people; nothing for one that is missing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def no_formula(value: object) -> object:
    """A cell of a CSV; a text that spreadsheets would take for a formula has an apostrophe before it, which they do not show."""
    if not isinstance(value, str):
        return value
    return f"'{visible(value)}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else visible(value)
