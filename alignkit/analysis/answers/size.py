"""Whether reward models grow better with data and with width: `experiment=size`."""

from __future__ import annotations

import itertools
from pathlib import PurePath

import pandas as pd
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from alignkit.analysis.answer import Answer, over_seeds, rows_of, spoken
from alignkit.analysis.contrasts import chosen, contrast, told
from alignkit.analysis.figures.trend import BARS, draw
from alignkit.analysis.runs import Runs
from alignkit.analysis.style import legend_below, name_axes, panels
from alignkit.analysis.sweeps import interval
from alignkit.errors import UserError
from alignkit.metrics import ACCURACIES, CALIBRATION_ERROR, VALIDATION

DATA, MODELS = "data", "models"
"""The arms."""
VALUES = ("accuracy", "calibration error")
LABELS = {"accuracy": "pairs ordered rightly", "calibration error": "calibration error"}
WORDS = {DATA: "training preferences", MODELS: "parameters"}
UNITS = {DATA: "preferences", MODELS: "parameters"}


def answer(runs: Runs) -> Answer:
    """A row an arm and size: held-out pairs that the reward model orders rightly, and how far its confidence is off."""
    rows = measured(runs)
    return Answer(
        table=over_seeds(rows, ["arm", "model", "preferences", "parameters"], VALUES), figure=drawn(rows), findings=tuple(findings(rows))
    )


def measured(runs: Runs) -> pd.DataFrame:
    """A row a reward model; `size` is what its arm varies.

    Raises:
        UserError: when none is finished.
    """
    rows = rows_of(
        runs,
        "reward",
        config={"preferences": "dataset.pairs"},
        results={"accuracy": VALIDATION + ACCURACIES, "calibration error": VALIDATION + CALIBRATION_ERROR, "parameters": "parameters"},
    )
    if rows.empty:
        raise UserError("size: no reward model is finished. Type the same command again with its run_dir=.")
    began = {str(row.job): str(row.run) for row in rows_of(runs, "language").itertuples()}
    first = [began.get(str(row.job), str(row.run)) for row in rows.itertuples()]
    rows["model"] = [PurePath(str(runs.config.at[run, "model.path"]).removeprefix("builtin:")).name for run in first]
    return rows.assign(size=rows["preferences"].where(rows["arm"] != MODELS, rows["parameters"]).astype(float))


def drawn(rows: pd.DataFrame) -> Figure:
    """Accuracy and calibration against the number of preferences; with models of several sizes also accuracy against their parameters."""
    arms = [arm for arm in WORDS if arm in set(rows["arm"])]
    shown = [(arm, value) for arm in arms for value in (VALUES if arm == DATA else VALUES[:1])]
    figure, axes = panels(len(shown), columns=3)
    handles: dict[str, ErrorbarContainer] = {}
    for place, (arm, value) in zip(axes, shown, strict=True):
        handles = draw(place, chosen(rows, {"arm": arm}).assign(all="mean over seeds"), "size", value, by="all")
        name_axes(place, WORDS[arm], LABELS[value])
    legend_below(figure, list(handles.values()), list(handles), title=BARS)  # type: ignore[arg-type]
    return figure


def findings(rows: pd.DataFrame) -> list[str]:
    """Each size against the next smaller one, and the largest against the smallest."""
    lines = []
    for arm, unit in UNITS.items():
        own = chosen(rows, {"arm": arm})
        sizes = sorted(set(own["size"]))
        for less, more in [*itertools.pairwise(sizes), *([(sizes[0], sizes[-1])] if len(sizes) > 2 else [])]:
            apart = contrast(own, "accuracy", {"size": more}, {"size": less})
            accuracies = [spoken(interval(chosen(own, {"size": size})["accuracy"].dropna().tolist()), 3) for size in (less, more)]
            lines.append(
                f"From {less:,.0f} to {more:,.0f} {unit} accuracy {told(apart, ('grows', 'falls', 'does not clearly change'))}, from "
                f"{accuracies[0]} to {accuracies[1]}: {spoken(apart, 3)} at equal seeds."
            )
        means = [float(chosen(own, {"size": size})["accuracy"].mean()) for size in sizes]
        if len(sizes) > 1:
            falls = sum(after < before for before, after in itertools.pairwise(means))
            lines.append(f"Over {len(sizes)} sizes the mean accuracy falls in {falls} of {len(sizes) - 1} steps to more {unit}.")
    if MODELS not in set(rows["arm"]):
        lines.append("Only the number of preferences was varied; size=models adds the size of the model.")
    return lines
