"""Whether PPO is sooner where it begins at DPO: `experiment=reinforced_dpo`."""

from __future__ import annotations

import pandas as pd

from alignkit.analysis.answer import Answer, rows_of, spoken
from alignkit.analysis.contrasts import contrast, told
from alignkit.analysis.figures.curves import curves
from alignkit.analysis.runs import RUN, Runs
from alignkit.analysis.sweeps import SEED, interval
from alignkit.errors import UserError
from alignkit.metrics import GOLD, SCORES, VALIDATION

SFT, DPO = "rlhf", "reinforced_dpo"
"""The arms, by where PPO begins."""
TARGETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Gold rewards that steps are counted up to."""
APART = f"{DPO} minus {SFT}"
LAST = (APART, "low", "high", "seeds where both did")
"""Columns of the table."""


def answer(runs: Runs) -> Answer:
    """A row a gold reward: the steps of PPO until a validation first showed it, from either start, and the difference at equal seeds."""
    jobs = rows_of(
        runs, "ppo", results={"gold": VALIDATION + GOLD, "gold at the start": f"start/{VALIDATION}{GOLD}", "steps of PPO": "steps"}
    )
    if missing := [arm for arm in (SFT, DPO) if arm not in set(jobs["arm"])]:
        raise UserError(f"reinforced_dpo: no PPO {' and none '.join(missing)} is finished. Type the same command again with its run_dir=.")
    steps = steps_to_targets(runs, jobs)
    own = runs.only(runs.info.index.to_series().isin(jobs["run"]))
    return Answer(
        table=table_of(steps),
        figure=curves(own, [VALIDATION + GOLD, VALIDATION + SCORES], by=["pipeline"]),
        findings=tuple(findings(runs, jobs, steps)),
    )


def steps_to_targets(runs: Runs, jobs: pd.DataFrame) -> pd.DataFrame:
    """A row a job and target: `steps`, 0 where the start was there already, NaN where no validation showed it."""
    curve = runs.curve(VALIDATION + GOLD)
    rows = []
    for job in jobs.itertuples():
        own = curve[curve[RUN] == job.run]
        for target in TARGETS:
            there = own[own["value"] >= target]["step"]
            rows.append((job.arm, job.seed, target, float(there.min()) if len(there) else float("nan")))
    return pd.DataFrame(rows, columns=["arm", SEED, "target", "steps"])


def table_of(steps: pd.DataFrame) -> pd.DataFrame:
    """Targets that some run reached."""
    rows = []
    for target, group in steps.groupby("target"):
        if group["steps"].isna().all():
            continue
        row: dict[str, object] = {"gold reward": target}
        for arm in (SFT, DPO):
            own = group[group["arm"] == arm].sort_values(SEED)
            row |= {f"steps {arm}": ", ".join("never" if pd.isna(n) else f"{n:.0f}" for n in own["steps"])}
        over = contrast(group, "steps", {"arm": DPO}, {"arm": SFT})
        both = group.pivot(index=SEED, columns="arm", values="steps").dropna()
        rows.append(row | {APART: over.mean, "low": over.low, "high": over.high, "seeds where both did": len(both)})
    return pd.DataFrame(rows, columns=["gold reward", *(f"steps {arm}" for arm in (SFT, DPO)), *LAST])


def findings(runs: Runs, jobs: pd.DataFrame, steps: pd.DataFrame) -> list[str]:
    """Where both began and ended, and who was first at each gold reward."""
    lines = []
    for value, words in (("gold at the start", "Before its first step"), ("gold", "After its last step")):
        ends = [spoken(interval(jobs[jobs["arm"] == arm][value].dropna().tolist())) for arm in (DPO, SFT)]
        apart = contrast(jobs, value, {"arm": DPO}, {"arm": SFT})
        lines.append(
            f"{words} PPO from DPO has a gold reward of {ends[0]}, PPO from SFT of {ends[1]}; at equal seeds it is "
            f"{told(apart, ('higher', 'lower', 'not told apart'))}, by {spoken(apart)}."
        )
    for target, group in steps.groupby("target"):
        reached = {arm: group[group["arm"] == arm]["steps"].notna() for arm in (SFT, DPO)}
        if not any(own.any() for own in reached.values()):
            lines.append(f"No run reached {target:g} or more.")
            break
        counts = f"{reached[DPO].sum()} of {len(reached[DPO])} runs from DPO and {reached[SFT].sum()} of {len(reached[SFT])} from SFT"
        if not all(own.all() for own in reached.values()):
            wide = group.pivot(index=SEED, columns="arm", values="steps").fillna(float("inf"))
            sooner, later = int((wide[DPO] < wide[SFT]).sum()), int((wide[DPO] > wide[SFT]).sum())
            lines.append(
                f"{target:g} was reached by {counts}, so that mean steps are not compared; of {len(wide)} seeds PPO from DPO was sooner in "
                f"{sooner} and later in {later}."
            )
            continue
        apart = contrast(group, "steps", {"arm": DPO}, {"arm": SFT})
        words = told(apart, ("PPO from DPO takes more", "PPO from DPO takes fewer", "it cannot be told who takes fewer"))
        lines.append(f"{target:g} was reached by all: {words} steps, {spoken(apart, 1)} at equal seeds.")
    trained = rows_of(runs, "dpo", results={"completions": "completions"})["completions"]
    if trained.notna().any():
        lines.append(
            f"Steps are those of PPO alone: DPO had trained on {trained.mean():.0f} completions of the data before. The reference of PPO "
            "from DPO is DPO's policy, that of PPO from SFT the supervised one, so that their KL is not the same quantity."
        )
    return lines
