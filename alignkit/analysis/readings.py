"""What a newcomer to a run reads first: which of some metrics it has, where each began and ended, and what it wrote last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
from pandas.io.formats.style import Styler

from alignkit.analysis.measures import measure
from alignkit.analysis.runs import RUN, Runs
from alignkit.errors import UserError
from alignkit.metrics import VALIDATION
from alignkit.run_dir import START

if TYPE_CHECKING:
    from pandas.io.formats.style_render import CSSDict

SIDES = ("reference", "policy")
"""Columns of samples that training leaves, in the order in which they are read: before and after."""


def logged(runs: Runs, metrics: Sequence[str]) -> list[str]:
    """Those of some metrics that any run has logged, in the order given.

    Raises:
        UserError: when no run has logged any of them.
    """
    known = [metric for metric in metrics if metric in runs.history and runs.history[metric].notna().any()]
    if not known:
        raise UserError(f"no run has logged any of {', '.join(metrics)}. What there is: runs.history.columns.")
    return known


def start_and_end(runs: Runs) -> pd.DataFrame:
    """A row a held-out metric: its mean over runs before the first step (`start`) and after the last (`end`), its unit, which way is
    better, and what it means, as `alignkit/metrics.py` has it. NaN where runs measured nothing at the start."""
    ends = [str(name) for name in runs.results if str(name).startswith(VALIDATION) and measure(str(name)) is not None]
    means = runs.results.reindex(columns=[*(START + name for name in ends), *ends]).apply(pd.to_numeric, errors="coerce").mean()
    known = [(name, told) for name in ends if (told := measure(name)) is not None]
    return pd.DataFrame(
        {
            "start": [means[START + name] for name in ends],
            "end": [means[name] for name in ends],
            "unit": [told.unit for _, told in known],
            "better": [told.better for _, told in known],
            "meaning": [told.meaning for _, told in known],
        },
        index=pd.Index(ends, name="metric"),
    )


def last_samples(runs: Runs, *, prompts: int) -> pd.DataFrame:
    """The last samples of each run that training left, of the first prompts; indexed by prompt, then by run, with `reference` and `policy`.

    Without any, an empty frame: `validation.samples=4` leaves some.
    """
    sides = [side for side in SIDES if side in runs.samples]
    if not sides:
        return pd.DataFrame(columns=list(SIDES))
    own = runs.samples.dropna(subset=sides)
    own = own[own["step"] == own.groupby(RUN)["step"].transform("max")]
    shown = own["prompt"].drop_duplicates()[:prompts]
    order = {prompt: place for place, prompt in enumerate(shown)}
    kept = own[own["prompt"].isin(shown)].sort_values("prompt", key=lambda column: column.map(order), kind="stable")
    return kept.set_index(["prompt", RUN])[sides]


def as_text(frame: pd.DataFrame) -> Styler:
    """A frame whose cells are sentences, for a notebook: on the left, wrapped, numbers with three significant digits, NaN left empty.

    The same frame gives the same HTML: ids that pandas would draw at random are left out.
    """
    cells = {"text-align": "left", "vertical-align": "top", "white-space": "pre-wrap"}
    heads: CSSDict = {"selector": "th", "props": [("text-align", "left"), ("vertical-align", "top")]}
    styled = Styler(frame, uuid="text", cell_ids=False).set_table_styles([heads]).set_properties(None, **cells)
    return styled.format(precision=3, na_rep="", escape="html").format_index(escape="html")
