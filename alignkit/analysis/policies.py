"""The policies among runs: which runs trained one, what all of its stages cost, and where it stands between gold reward and KL."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from alignkit.analysis.bands import groups
from alignkit.analysis.frames import labelled
from alignkit.analysis.run_files import DONE, pipeline_of
from alignkit.analysis.runs import Runs
from alignkit.analysis.sweeps import SEED
from alignkit.errors import UserError
from alignkit.metrics import DISTINCT_2, GOLD, GOLD_STD, KL, KL_STANDARD_ERROR, VALIDATION
from alignkit.run_dir import START

LOSS, PIPELINE, TRAINED = "loss.name", "pipeline", "model.train"
END_KL, END_GOLD = VALIDATION + KL, VALIDATION + GOLD
COLUMNS = ["run", "method", "strength", SEED, "kl", "reward", "kl_error", "reward_error", "distinct_2"]
BEST_OF_GOLD = re.compile(r"best_of_(\d+)/gold")
SUMMED, LARGEST = ("seconds",), ("models_held", "peak_memory_bytes")
"""What a pipeline costs: results that its stages add to, and those of which the largest counts."""


def policies(runs: Runs) -> Runs:
    """The runs that measured a policy's KL and gold reward, but for stages of a pipeline after which another one did, or was to.

    The supervised model that PPO starts from is none, because its KL is one to another reference. Neither is a run that trained heads on
    a frozen trunk: its language model is the reference.

    Raises:
        UserError: when no run has both numbers.
    """
    kl, gold = (numbers(runs, name) for name in (END_KL, END_GOLD))
    mask = (kl.abs() < math.inf) & (gold.abs() < math.inf) & ~runs.info["path"].map(goes_on).astype(bool)
    if TRAINED in runs.config:
        mask &= runs.config[TRAINED] != "heads"
    if not mask.any():
        raise UserError(
            f"no run has both {END_KL} and {END_GOLD} of a policy. Runs measure them with validation.gold=NAME validation.kl=true."
        )
    return runs.only(mask)


def goes_on(path: object) -> bool:
    """Whether the pipeline of a run trains on after it: a later stage has measured a policy as well, or is not finished."""
    if not isinstance(path, str):
        return False
    pipeline, stage = pipeline_of(Path(path))
    if stage is None:
        return False
    later = pipeline["stages"][pipeline["stages"].index(stage) + 1 :]
    trained = [one for one in later if one.get("command", "train") == "train"]
    return any(one.get("status") != DONE or {END_KL, END_GOLD} <= set(one.get("results", {})) for one in trained)


def methods(runs: Runs) -> pd.Series[str]:
    """By run what people call it: its loss, and its pipeline where several end with the same loss."""
    losses = runs.config[LOSS].astype(str) if LOSS in runs.config else pd.Series("run", index=runs.info.index)
    if PIPELINE not in runs.config:
        return losses
    ways = runs.config[PIPELINE].fillna("alone").astype(str)
    several = ways.groupby(losses).transform("nunique") > 1
    return losses.where(~several, losses + " of " + ways)


def end_points(runs: Runs) -> pd.DataFrame:
    """A row a policy, and `best_of_points` of other models: the points of `figures.frontier` and `matched.at_equal_kl`.

    Samples of a policy are left out: the bound on the KL of choosing among them is one to the policy, not to its reference.

    Columns: `run`, `method`, `strength` (in words), `seed`, `kl` (nats; of the best of N its bound ln N - (N - 1) / N, arXiv:2210.10760),
    `reward` (gold), the standard errors over held-out samples `kl_error`, `reward_error`, and `distinct_2`; NaN where unknown.

    Raises:
        UserError: when no run has a KL and a gold reward, or runs of one strength have the same seed.
    """
    own = policies(runs)
    names = methods(own)
    points = placed(own, names, kl=END_KL, reward=END_GOLD).assign(
        strength=pd.concat([strengths(own.only(names == name)) for name in names.unique()]),
        kl_error=numbers(own, VALIDATION + KL_STANDARD_ERROR),
        reward_error=numbers(own, VALIDATION + GOLD_STD) / np.sqrt(numbers(own, "data/validation")),
        distinct_2=numbers(own, VALIDATION + DISTINCT_2),
    )
    ranked = best_of_points(runs)
    ranked = ranked[~ranked["run"].isin(samplers_of(runs, own))]
    return pd.concat([points, ranked], ignore_index=True) if len(ranked) else points.reset_index(drop=True)


def start_points(runs: Runs) -> pd.DataFrame:
    """Where each method's seeds began, as `end_points` has it: one row a method and seed, of strength `start`."""
    own = policies(runs)
    points = placed(own, methods(own), kl=START + END_KL, reward=START + END_GOLD).assign(
        strength="start", distinct_2=numbers(own, START + VALIDATION + DISTINCT_2)
    )
    points["kl"] = points["kl"].fillna(0.0)  # a policy starts as its reference, unless a run says otherwise
    return points.drop_duplicates(["method", SEED]).reset_index(drop=True)


def best_of_points(runs: Runs) -> pd.DataFrame:
    """A row a run that sampled and ranked with alignkit.generate, and N: as `end_points` has it, of strength `N 4`. Empty without any."""
    sizes = best_of_sizes(runs.results)
    ranked = pd.Series(False, index=runs.info.index)
    for size in sizes:
        ranked |= numbers(runs, f"best_of_{size}/gold").abs() < math.inf
    if not ranked.any():
        return pd.DataFrame(columns=COLUMNS)
    own = runs.only(ranked)
    labels = strengths(own).replace("", "best of N")
    found = [
        placed(own.only(labels == label), labels[labels == label], kl=f"best_of_{size}/kl_bound", reward=f"best_of_{size}/gold").assign(
            strength=f"N {size}"
        )
        for label in labels.unique()
        for size in sizes
    ]
    return pd.concat(found, ignore_index=True).dropna(subset=["kl", "reward"])


def samplers_of(runs: Runs, own: Runs) -> list[str]:
    """The runs whose model is what some of `own` left."""
    if not {"run_dir", "model.path"} <= set(runs.config):
        return []
    left = {f"{place}/model" for place in own.config["run_dir"]}
    return [str(run) for run, path in runs.config["model.path"].items() if path in left]


def best_of_sizes(results: Iterable[object]) -> list[int]:
    """Every N of which the gold reward of the best of N is among names of results."""
    found = (BEST_OF_GOLD.fullmatch(str(name)) for name in results)
    return sorted(int(match[1]) for match in found if match is not None)


def placed(runs: Runs, names: pd.Series[str], *, kl: str, reward: str) -> pd.DataFrame:
    """Rows of `COLUMNS` with the KL and reward of two results; what else a point has is NaN."""
    points = pd.DataFrame({"run": runs.info.index, "method": names, SEED: seeds(runs)}, index=runs.info.index)
    points = points.assign(kl=numbers(runs, kl), reward=numbers(runs, reward), strength="")
    return points.assign(kl_error=math.nan, reward_error=math.nan, distinct_2=math.nan)[COLUMNS]


def costs(runs: Runs) -> pd.DataFrame:
    """A row a policy, by run: `method`, `seed`, and of it and all stages before it `stages` (their number), `seconds` (their sum),
    `models_held` and `peak_memory_bytes` (the largest)."""
    own = policies(runs)
    names = {path: run for run, path in runs.info["path"].items() if isinstance(path, str)}
    rows = []
    for run, path in own.info["path"].items():
        before = [names[place] for place in stages_before(path) if place in names]
        whole = runs.info.index.isin([*before, run])
        row: dict[str, float] = {"stages": int(whole.sum())}
        row |= {name: float(numbers(runs, name)[whole].sum()) for name in SUMMED}
        row |= {name: float(numbers(runs, name)[whole].max()) for name in LARGEST}
        rows.append(row)
    told = pd.DataFrame(rows, index=labelled(list(map(str, own.info.index))))
    told.insert(0, "method", methods(own))
    told.insert(1, SEED, seeds(own))
    return told


def stages_before(path: object) -> Iterator[str]:
    """The directories of the stages that a run's pipeline ran before it, shared ones wherever they lie."""
    if not isinstance(path, str):
        return
    pipeline, stage = pipeline_of(Path(path))
    for one in pipeline.get("stages", [])[: pipeline["stages"].index(stage)] if stage is not None else []:
        yield str((Path(path).parent / one["directory"]).resolve())


def strengths(runs: Runs) -> pd.Series[str]:
    """By run what tells it from others that are not merely another seed of it, in words; nothing where there are no others."""
    found = groups(runs, None)
    return pd.Series({run: group.label if len(found) > 1 else "" for group in found for run in group.runs}, dtype=object)


def seeds(runs: Runs) -> pd.Series[Any]:
    """By run its seed; of runs without one their place, so that each counts for itself."""
    if SEED in runs.config:
        return runs.config[SEED]
    return pd.Series(range(len(runs.info)), index=runs.info.index)


def numbers(runs: Runs, name: str) -> pd.Series[float]:
    """A result by run; NaN where a run has none."""
    if name not in runs.results:
        return pd.Series(math.nan, index=runs.info.index)
    return pd.to_numeric(runs.results[name], errors="coerce").astype(np.float64)
