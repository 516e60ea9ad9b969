"""What each round of iterative DPO does to the true reward, by judge: `experiment=iterative_dpo`."""

from __future__ import annotations

import re

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignkit.analysis.answer import Answer, over_seeds, rows_of, spoken, stages
from alignkit.analysis.contrasts import chosen, contrast, told
from alignkit.analysis.runs import Runs
from alignkit.analysis.style import legend_below, looks, name_axes, panels
from alignkit.analysis.sweeps import interval
from alignkit.errors import UserError
from alignkit.metrics import GOLD, VALIDATION

GOLD_JUDGE, SELF = "gold", "self"
ROUND = re.compile(r"dpo_(\d+)")
BEFORE, AFTER, GAIN, WON = "gold before", "gold after", "gain", "win rate by the judge"
APART = f"after, minus {SELF}"
BARS = "bars: 95 % t intervals over seeds"
BESIDE = 0.08
"""Rounds between the places of two judges, which else hide each other."""


def answer(runs: Runs) -> Answer:
    """A row a judge and round: the true reward before and after it on the same held-out prompts, the gain, how often the judge preferred
    the new policy to the one before, and the reward after it against that of the policy's own judge at equal seeds."""
    rows = measured(runs)
    table = over_seeds(rows, ["judge", "round"], [BEFORE, AFTER, GAIN, WON])
    differences = [
        contrast(rows, AFTER, {"judge": row.judge, "round": row.round}, {"judge": SELF, "round": row.round}) for row in table.itertuples()
    ]
    own = table["judge"] == SELF
    for column, values in (
        (APART, [over.mean for over in differences]),
        (f"{APART} low", [over.low for over in differences]),
        (f"{APART} high", [over.high for over in differences]),
    ):
        table[column] = pd.Series(values, index=table.index).mask(own)
    return Answer(table=table, figure=drawn(rows), findings=tuple(findings(rows)))


def measured(runs: Runs) -> pd.DataFrame:
    """A row a job and round that is finished.

    Raises:
        UserError: when there is none.
    """
    names = [name for name in dict.fromkeys(stages(runs)["stage"]) if ROUND.fullmatch(name)]
    gold = VALIDATION + GOLD
    tables = []
    for name in names:
        number = int(name.partition("_")[2])
        rows = rows_of(runs, name, results={BEFORE: f"start/{gold}", AFTER: gold})
        won = rows_of(runs, f"win_{number}", results={WON: "win_rate"}).set_index("job")[WON]
        tables.append(rows.assign(round=number, won=rows["job"].map(won)).rename(columns={"arm": "judge", "won": WON}))
    if not tables:
        raise UserError("iterative_dpo: no round is finished. Type the same command again with its run_dir=.")
    rows = pd.concat(tables, ignore_index=True)
    rows[GAIN] = rows[AFTER] - rows[BEFORE]
    return rows.sort_values(["job", "round"], ignore_index=True)


def drawn(rows: pd.DataFrame) -> Figure:
    """The true reward by round, 0 being where the first one begins; a line a judge."""
    begin = chosen(rows, {"round": 1}).assign(round=0, **{AFTER: chosen(rows, {"round": 1})[BEFORE]})
    points = pd.concat([begin, rows], ignore_index=True)
    figure, (axes,) = panels(1, columns=1)
    styles, handles = looks(rows["judge"]), {}
    for place, (judge, look) in enumerate(styles.items()):
        own = over_seeds(chosen(points, {"judge": judge}), ["round"], [AFTER]).sort_values("round")
        at = own["round"] + BESIDE * (place - (len(styles) - 1) / 2)
        halves = [own[AFTER] - own[f"{AFTER} low"], own[f"{AFTER} high"] - own[AFTER]]
        lines = axes.errorbar(at, own[AFTER], yerr=halves, color=look.colour, linewidth=1.0, elinewidth=0.7, capsize=2)
        lines[0].set(marker=look.marker, linestyle=look.line, markersize=3.5)
        handles[judge] = lines
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    name_axes(axes, "rounds", "gold reward of held-out samples")
    legend_below(figure, list(handles.values()), list(handles), title=BARS)  # type: ignore[arg-type]
    return figure


def findings(rows: pd.DataFrame) -> list[str]:
    """Each judge's rounds, and the true reward as judge against the policy itself."""
    lines = []
    for judge, own in rows.groupby("judge", sort=False):
        rounds = []
        for number, group in own.groupby("round"):
            gain = interval(group[GAIN].dropna().tolist())
            words = told(gain, ("raises", "lowers", "does not clearly change"))
            better = int((group[GAIN] > 0).sum())
            rounds.append(f"round {number} {words} it by {spoken(gain, 3)} (up in {better} of {len(group)} seeds)")
        began, ended = (
            interval(chosen(own, {"round": number})[value].dropna().tolist())
            for number, value in ((own["round"].min(), BEFORE), (own["round"].max(), AFTER))
        )
        lines.append(f"judge={judge}: the true reward goes from {spoken(began, 3)} to {spoken(ended, 3)}; {', '.join(rounds)}.")
    last = {judge: own["round"].max() for judge, own in rows.groupby("judge")}
    if {GOLD_JUDGE, SELF} <= set(last):
        number = min(last[GOLD_JUDGE], last[SELF])
        apart = contrast(rows, AFTER, {"judge": GOLD_JUDGE, "round": number}, {"judge": SELF, "round": number})
        words = told(apart, ("higher than", "lower than", "not told apart from"))
        lines.append(
            f"After round {number} the true reward of the policy that the true reward judged is {words} that of the policy that judged "
            f"itself: at equal seeds the difference is {spoken(apart, 3)}."
        )
    return lines
