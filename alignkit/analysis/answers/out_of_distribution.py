"""What DPO and PPO are worth on prompts unlike those of training: `experiment=out_of_distribution`."""

from __future__ import annotations

import pandas as pd

from alignkit.analysis.answer import Answer, over_seeds, rows_of, spoken
from alignkit.analysis.contrasts import chosen, contrast, sign, told
from alignkit.analysis.figures.dots import dots
from alignkit.analysis.runs import Runs
from alignkit.analysis.sweeps import interval
from alignkit.errors import UserError
from alignkit.metrics import GOLD, KL

PROMPTS = ("usual", "shifted")
"""The stages that sample, by the prompts that they answer."""
START = "sft"
"""The arm that the others begin from."""
THAN = ("better than", "worse than", "not told apart from")


def answer(runs: Runs) -> Answer:
    """A row a method and kind of prompts: gold reward of samples and their KL to the supervised policy."""
    rows = measured(runs)
    figure = dots(rows, {"gold": "gold reward (score)", "kl": "KL(policy | sft) (nats)"}, by="method", series="prompts")
    return Answer(table=over_seeds(rows, ["method", "prompts"], ["gold", "kl"]), figure=figure, findings=tuple(findings(rows)))


def measured(runs: Runs) -> pd.DataFrame:
    """A row a policy and kind of prompts.

    Raises:
        UserError: when nobody has answered prompts of both kinds.
    """
    found = [rows_of(runs, stage, results={"gold": GOLD, "kl": KL}).assign(prompts=stage) for stage in PROMPTS]
    if any(rows.empty for rows in found):
        raise UserError("out_of_distribution: no policy has answered prompts of both kinds. Type the same command again with its run_dir=.")
    return pd.concat(found, ignore_index=True).rename(columns={"arm": "method"})


def findings(rows: pd.DataFrame) -> list[str]:
    """The gain over supervised fine-tuning on either kind of prompts, and what differs."""
    lines = []
    for method, own in rows.groupby("method", sort=False):
        apart = contrast(own, "gold", {"prompts": "shifted"}, {"prompts": "usual"})
        gold = {kind: spoken(interval(own[own["prompts"] == kind]["gold"].dropna().tolist())) for kind in PROMPTS}
        lines.append(
            f"{method}: gold reward {gold['usual']} on usual prompts and {gold['shifted']} on shifted ones, which is "
            f"{told(apart, ('more', 'less', 'not told apart'))} ({spoken(apart)} at equal seeds)."
        )
    methods = [str(method) for method in dict.fromkeys(rows["method"]) if method != START]
    for method in methods if START in set(rows["method"]) else []:
        gains = {kind: contrast(chosen(rows, {"prompts": kind}), "gold", {"method": method}, {"method": START}) for kind in PROMPTS}
        left = f", {gains['shifted'].mean / gains['usual'].mean:.0%} of it" if sign(gains["usual"]) == 1 else ""
        lines.append(
            f"{method} gains {spoken(gains['usual'])} over {START} on usual prompts and {spoken(gains['shifted'])} on shifted ones{left}; "
            f"on shifted ones it is {told(gains['shifted'], THAN)} {START}."
        )
    if len(methods) > 1:
        this, that = methods[:2]
        for kind in PROMPTS:
            own = chosen(rows, {"prompts": kind})
            apart = contrast(own, "gold", {"method": this}, {"method": that})
            kls = [own[own["method"] == method]["kl"].mean() for method in (this, that)]
            lines.append(
                f"On {kind} prompts {this} is {told(apart, THAN)} {that}: {spoken(apart)} at equal "
                f"seeds, at a KL of {kls[0]:.1f} and {kls[1]:.1f} nats. Their KL is not matched, so that this ranks no method."
            )
    return lines
