"""What KTO and BCO make of unpaired labels: `experiment=unpaired`. Ethayarajh et al. 2024 (arXiv:2402.01306)."""

from __future__ import annotations

import math

import pandas as pd

from alignkit.analysis.answer import Answer, over_seeds, rows_of, spoken
from alignkit.analysis.contrasts import chosen, contrast, told
from alignkit.analysis.figures.dots import dots
from alignkit.analysis.runs import Runs
from alignkit.analysis.sweeps import Interval
from alignkit.errors import UserError
from alignkit.metrics import ACCURACIES, GOLD, KL, VALIDATION

STAGE = "policy"
SHARE = "desirable"
PLAIN, WEIGHTED = "kto", "kto_weighted"
IMITATION = "sft"
VALUES = ("gold", "kl", "accuracy")


def answer(runs: Runs) -> Answer:
    """A row a method and share of desirable answers: gold reward of samples, their KL to the start, and held-out accuracy."""
    rows = measured(runs)
    figure = dots(
        rows,
        {"gold": "gold reward (score)", "kl": "KL(policy | start) (nats)"},
        by="method",
        series=SHARE,
        marks={"gold": float(rows["gold at the start"].mean())},
        mark="before training",
    )
    return Answer(table=over_seeds(rows, ["method", SHARE], VALUES), figure=figure, findings=tuple(findings(rows)))


def measured(runs: Runs) -> pd.DataFrame:
    """A row a run.

    Raises:
        UserError: when none is finished.
    """
    rows = rows_of(
        runs,
        STAGE,
        config={SHARE: "dataset.desirable_share"},
        results={
            "gold": VALIDATION + GOLD,
            "gold at the start": f"start/{VALIDATION}{GOLD}",
            "kl": VALIDATION + KL,
            "accuracy": VALIDATION + ACCURACIES,
        },
    ).rename(columns={"arm": "method"})
    if rows.empty:
        raise UserError(f"unpaired: no stage {STAGE!r} is finished. Type the same command again with its run_dir=.")
    return rows.assign(**{SHARE: [f"{share:.0%}" for share in rows[SHARE].astype(float)]})


def findings(rows: pd.DataFrame) -> list[str]:
    """Each method against imitation at equal labels, then what rare praise costs and whether weights mend it."""
    lines = []
    shares = list(dict.fromkeys(rows[SHARE]))
    for share in shares:
        own = chosen(rows, {SHARE: share})
        for method in [str(name) for name in dict.fromkeys(own["method"]) if name != IMITATION]:
            apart = contrast(own, "gold", {"method": method}, {"method": IMITATION})
            lines.append(compared(f"With {share} desirable, the gold reward of {method}", apart, f"that of {IMITATION}"))
    for method in dict.fromkeys(rows["method"]):
        mine = rows[rows["method"] == method]
        if len(shares) > 1 and set(mine[SHARE]) >= set(shares[:2]):
            apart = contrast(mine, "gold", {SHARE: shares[1]}, {SHARE: shares[0]})
            lines.append(compared(f"{method}: its gold reward with {shares[1]} desirable", apart, f"that with {shares[0]}"))
    for share in dict.fromkeys(rows.loc[rows["method"] == WEIGHTED, SHARE]):
        own = chosen(rows, {SHARE: share})
        apart = contrast(own, "gold", {"method": WEIGHTED}, {"method": PLAIN})
        lines.append(compared(f"With {share} desirable, the gold reward of {WEIGHTED}", apart, f"that of {PLAIN}, which is not weighted"))
        kls = {name: own[own["method"] == name]["kl"].mean() for name in (WEIGHTED, PLAIN)}
        lines.append(f"Their KL is not matched: {kls[WEIGHTED]:.1f} nats of {WEIGHTED}, {kls[PLAIN]:.1f} of {PLAIN}.")
    return [line for line in lines if line]


def compared(this: str, apart: Interval, that: str) -> str:
    """A sentence; empty where no seed has both sides."""
    if math.isnan(apart.mean):
        return ""
    return f"{this} is {told(apart, ('higher than', 'lower than', 'not told apart from'))} {that}: {spoken(apart)} at equal seeds."
