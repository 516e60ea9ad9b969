"""Held-out pairs one by one, of the newest validation of each run: what means over pairs hide."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from alignkit.analysis.json_lines import number, read_rows, whole
from alignkit.analysis.runs import RUN, Runs
from alignkit.errors import UserError
from alignkit.metrics import CHOSEN_REWARDS, IMPLICIT_CHOSEN_REWARDS, IMPLICIT_REJECTED_REWARDS, REJECTED_REWARDS
from alignkit.run_dir import RunDir

Reward = Literal["rewards", "implicit_rewards"]
SIDES: dict[Reward, tuple[str, str]] = {
    "rewards": (CHOSEN_REWARDS, REJECTED_REWARDS),
    "implicit_rewards": (IMPLICIT_CHOSEN_REWARDS, IMPLICIT_REJECTED_REWARDS),
}
TEXTS = ["prompt", "chosen", "rejected"]
COLUMNS = [RUN, "step", *TEXTS, "chosen_tokens", "rejected_tokens", "chosen_reward", "rejected_reward", "margin"]


def pairs_of(runs: Runs, reward: Reward = "rewards") -> pd.DataFrame:
    """A row a held-out pair and run: `run`, `step`, texts, `chosen_tokens`, `rejected_tokens`, `chosen_reward`, `rejected_reward` and
    `margin`, which is above 0 where the reward agrees with the label.

    Args:
        runs: those that have no such pairs (supervised fine-tuning, PPO, W&B, runs of older versions) have no rows.
        reward: `rewards` of the head, or of the policy where there is no head; `implicit_rewards` of a policy beside a head.

    Raises:
        UserError: when no run has any.
    """
    found = held_out_pairs(runs, reward)
    if found.empty:
        raise UserError(
            f"no run of {len(runs.names)} has {reward} of single pairs. Runs on pairs write them to pairs.jsonl at each validation; "
            "implicit_rewards are there beside a head."
        )
    return found


def held_out_pairs(runs: Runs, reward: Reward = "rewards") -> pd.DataFrame:
    """The same; empty where no run has any."""
    files = {run: RunDir(Path(path)).pairs for run, path in runs.info["path"].items() if isinstance(path, str)}
    found = [{RUN: run, **pair} for run, file in files.items() for row in read_rows(file) if (pair := pair_in(row, reward)) is not None]
    rows = pd.DataFrame(found, columns=COLUMNS[:-1])
    return rows.assign(margin=rows["chosen_reward"] - rows["rejected_reward"])


def pair_in(row: Mapping[str, Any], reward: Reward) -> dict[str, Any] | None:
    """What a row of `pairs.jsonl` says of a pair; None where it has not got its texts or its rewards."""
    chosen, rejected = (number(row.get(name)) for name in SIDES[reward])
    if chosen is None or rejected is None or not all(isinstance(row.get(name), str) for name in TEXTS):
        return None
    counts = {name: whole(row.get(name)) for name in ("step", "chosen_tokens", "rejected_tokens")}
    return {**{name: row[name] for name in TEXTS}, **counts, "chosen_reward": chosen, "rejected_reward": rejected}


def sides(pairs: pd.DataFrame) -> pd.DataFrame:
    """A row a completion of what `pairs_of` returns: `run`, `kind` (`chosen`, `rejected`), `tokens`, `reward`."""
    parts = [
        pd.DataFrame({RUN: pairs[RUN], "kind": kind, "tokens": pairs[f"{kind}_tokens"], "reward": pairs[f"{kind}_reward"]})
        for kind in ("chosen", "rejected")
    ]
    return pd.concat(parts, ignore_index=True)


def disputed(pairs: pd.DataFrame, *, most: int | None = None) -> pd.DataFrame:
    """Pairs that more than half of the runs order against their label, most of all first: either the label is wrong, or the rewards are.

    Args:
        pairs: what `pairs_of` returns.
        most: rows, None for all.

    Returns:
        `prompt`, `chosen`, `rejected`; `runs`, how many have the pair; `against`, how many order it the other way; `margin`, the mean over
        runs of the pair's margin in units of the root mean square margin of its run, so that runs with large rewards count no more.
    """
    scale = pairs.groupby(RUN, sort=False)["margin"].transform(lambda margins: np.sqrt(np.mean(margins**2)))
    scaled = (pairs["margin"] / scale).where(scale > 0, 0.0)
    marked = pairs[TEXTS].assign(against=pairs["margin"] < 0, margin=scaled)
    grouped = marked.groupby(TEXTS, sort=False)
    told = grouped.agg(runs=("margin", "size"), against=("against", "sum"), margin=("margin", "mean")).reset_index()
    told = told[told["against"] > told["runs"] / 2]
    order = told.assign(share=told["against"] / told["runs"]).sort_values(["share", "margin"], ascending=[False, True], kind="stable").index
    return told.loc[order[:most]].reset_index(drop=True)
