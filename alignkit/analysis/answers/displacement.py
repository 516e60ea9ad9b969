"""Which losses keep the chosen answers as likely as they were: `experiment=displacement`. Razin et al. 2024 (arXiv:2410.08847)."""

from __future__ import annotations

import pandas as pd

from alignkit.analysis.answer import Answer, over_seeds, rows_of, spoken
from alignkit.analysis.contrasts import contrast, sign, told
from alignkit.analysis.figures.displacement import displacement
from alignkit.analysis.runs import Runs
from alignkit.analysis.sweeps import interval
from alignkit.errors import UserError
from alignkit.metrics import ACCURACIES, CHOSEN_CHANGE, CHOSEN_FELL, GOLD, MARGINS, REJECTED_LOGPS, VALIDATION

STAGE = "policy"
PLAIN = "dpo"
"""What the others are measured against."""
VALUES = ("chosen change", "rejected change", "chosen that fell", "margin", "accuracy", "gold")


def answer(runs: Runs) -> Answer:
    """A row a loss: how far log pi of held-out completions went from the first validation to the last, beside margin and gold reward."""
    rows = measured(runs)
    own = runs.only(runs.info.index.to_series().isin(rows["run"]))
    keys = [key for key in ("loss.name", "loss.nll_weight") if key in own.config]
    return Answer(
        table=over_seeds(rows, ["method"], VALUES),
        figure=displacement(own, by=keys),
        findings=tuple(findings(rows)),
    )


def measured(runs: Runs) -> pd.DataFrame:
    """A row a run of the stage that has a preference loss.

    Raises:
        UserError: when none is finished.
    """
    rows = rows_of(
        runs,
        STAGE,
        config={"loss": "loss.name", "weight": "loss.nll_weight"},
        results={
            "chosen change": VALIDATION + CHOSEN_CHANGE,
            "rejected change": VALIDATION + REJECTED_LOGPS,
            "rejected at first": f"start/{VALIDATION}{REJECTED_LOGPS}",
            "chosen that fell": VALIDATION + CHOSEN_FELL,
            "margin": VALIDATION + MARGINS,
            "accuracy": VALIDATION + ACCURACIES,
            "gold": VALIDATION + GOLD,
        },
    )
    if rows.empty:
        raise UserError(f"displacement: no stage {STAGE!r} is finished. Type the same command again with its run_dir=.")
    rows["rejected change"] -= rows["rejected at first"]
    several = rows.groupby("loss")["weight"].nunique() > 1
    rows["method"] = [
        f"{loss}, nll_weight {weight:g}" if several[loss] else str(loss) for loss, weight in zip(rows["loss"], rows["weight"], strict=True)
    ]
    return rows


def findings(rows: pd.DataFrame) -> list[str]:
    """What became of the chosen side under each loss, and which losses kept it."""
    lines = []
    verdicts: dict[int, list[str]] = {1: [], -1: [], 0: []}
    for method, own in rows.groupby("method", sort=False):
        change, rejected, margin = (interval(own[value].dropna().tolist()) for value in ("chosen change", "rejected change", "margin"))
        verdicts[sign(change)].append(str(method))
        lines.append(
            f"{method}: log pi of chosen held-out answers changed by {spoken(change, 1)} nats, and {own['chosen that fell'].mean():.0%} of "
            f"them became less likely; rejected ones changed by {spoken(rejected, 1)}. Its margin "
            f"{told(margin, ('grew', 'fell', 'did not clearly move'))}, to {spoken(margin)} of its own reward, and "
            f"{own['accuracy'].mean():.0%} of the pairs are ordered rightly."
        )
    for place, words in (
        (-1, "Displaced, chosen answers being less likely than before, under"),
        (1, "The chosen side became more likely under"),
        (0, "Not told apart from no change of the chosen side"),
    ):
        if verdicts[place]:
            lines.append(f"{words}: {'; '.join(verdicts[place])}.")
    for method in [name for name in dict.fromkeys(rows["method"]) if name != PLAIN and PLAIN in set(rows["method"])]:
        apart = contrast(rows, "chosen change", {"method": method}, {"method": PLAIN})
        words = told(apart, ("keeps more of the chosen likelihood than", "keeps less of it than", "cannot be told from"))
        lines.append(f"{method} {words} {PLAIN} at equal seeds: {spoken(apart, 1)} nats apart.")
    return lines
