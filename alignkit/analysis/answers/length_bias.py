"""Under which losses samples grow longer where annotators like length: `experiment=length_bias`."""

from __future__ import annotations

import pandas as pd

from alignkit.analysis.answer import Answer, over_seeds, rows_of, spoken
from alignkit.analysis.contrasts import chosen, contrast, told
from alignkit.analysis.figures.dots import dots
from alignkit.analysis.runs import Runs
from alignkit.analysis.sweeps import interval
from alignkit.errors import UserError
from alignkit.metrics import GOLD, LENGTH, TERMINATED, VALIDATION

STAGE = "policy"
BIAS = "length bias"
VALUES = ("length", "gold", "ended by itself")


def answer(runs: Runs) -> Answer:
    """A row a loss and share of labels that go by length: tokens of samples, gold reward, share that was not cut."""
    rows = measured(runs)
    start = float(rows["length at the start"].mean())
    table = over_seeds(rows, ["loss", BIAS], VALUES)
    figure = dots(
        rows,
        {"length": "tokens of a sample", "gold": "gold reward (score)"},
        by="loss",
        series=BIAS,
        marks={"length": start, "gold": float(rows["gold at the start"].mean())},
        mark="before training",
    )
    return Answer(table=table, figure=figure, findings=tuple(findings(rows)))


def measured(runs: Runs) -> pd.DataFrame:
    """A row a run.

    Raises:
        UserError: when none is finished.
    """
    rows = rows_of(
        runs,
        STAGE,
        config={"loss": "loss.name", BIAS: "dataset.length_bias"},
        results={
            "length": VALIDATION + LENGTH,
            "length at the start": f"start/{VALIDATION}{LENGTH}",
            "gold": VALIDATION + GOLD,
            "gold at the start": f"start/{VALIDATION}{GOLD}",
            "ended by itself": VALIDATION + TERMINATED,
        },
    )
    if rows.empty:
        raise UserError(f"length_bias: no stage {STAGE!r} is finished. Type the same command again with its run_dir=.")
    return rows.assign(growth=rows["length"] - rows["length at the start"])


def findings(rows: pd.DataFrame) -> list[str]:
    """What the bias added to each loss's samples, and who took more of it."""
    none, most = rows[BIAS].min(), rows[BIAS].max()
    lines = []
    grown: dict[str, float] = {}
    for loss, own in rows.groupby("loss", sort=False):
        ends = [interval(chosen(own, {BIAS: bias})["growth"].dropna().tolist()) for bias in (none, most)]
        apart = contrast(own, "length", {BIAS: most}, {BIAS: none})
        grown[str(loss)] = apart.mean
        gold = contrast(own, "gold", {BIAS: most}, {BIAS: none})
        lines.append(
            f"{loss}: samples changed by {spoken(ends[0], 1)} tokens with a length bias of {none:g} and by {spoken(ends[1], 1)} with "
            f"{most:g}. The bias makes them {told(apart, ('longer', 'shorter', 'neither longer nor shorter for certain'))}, by "
            f"{spoken(apart, 1)} at equal seeds, and their gold reward {told(gold, ('higher', 'lower', 'not clearly other'))}, by "
            f"{spoken(gold)}."
        )
    if none == most:
        return [*lines, "Only one length bias was run, so that nothing can be said of what it adds."]
    known = {loss: added for loss, added in grown.items() if added == added}
    if known:
        order = sorted(known, key=known.__getitem__, reverse=True)
        lines.append(f"By what the bias adds, most first: {', '.join(f'{loss} {known[loss]:+.1f}' for loss in order)} tokens.")
    biased = chosen(rows, {BIAS: most}).groupby("loss", sort=False)["ended by itself"].mean()
    if cut := {loss: ended for loss, ended in biased.items() if ended < 0.9}:
        told_of = ", ".join(f"{loss} {1 - ended:.0%}" for loss, ended in cut.items())
        lines.append(f"Samples that were cut before they ended hide length: {told_of} of them.")
    return lines
