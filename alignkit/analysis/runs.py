"""Runs as tidy frames: what was set, what came out, every logged row and every sample, out of run directories or W&B."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]

from alignkit.analysis.frames import frame, labelled
from alignkit.analysis.loaded import CLOCKS, STEP, LoadedRun
from alignkit.analysis.run_files import read_run, run_directories
from alignkit.analysis.wandb_offline import read_offline_runs, wandb_files
from alignkit.analysis.wandb_server import PREFIX, read_server_runs
from alignkit.errors import UserError, did_you_mean

RUN = "run"
"""The index of frames with a row a run, a column of the others."""
NO_CHOICES = ("run_dir", "cache_dir", "logger.", "loss.module", "loss.monitor", "debug", "callbacks.progress_bar")
"""Keys that differ between runs without a difference in what they compute, or follow from another key."""
SHOWN = 8
"""Names in a message."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """Runs, each named by its directory, seen from the deepest directory that holds all of them (W&B: by its name there).

    runs = load_runs("runs/2026-11-25/10-12-00-sweep")
    runs.results.join(runs.config[runs.varied()])
    runs.only(runs.config["loss.name"] == "dpo").curve("val/rewards/accuracies")
    """

    config: pd.DataFrame
    """Index `run`; a column a config key, dotted (`loss.beta`); lists as tuples. NaN where a run lacks the key, None where it is null. Of
    stages also `pipeline`, and what a sweep gave the stages before (`stages.reward.dataset.pairs`)."""
    results: pd.DataFrame
    """Index `run`; a column a name in `results.json`; NaN where a run lacks it."""
    history: pd.DataFrame
    """A row a logged row: `run` (categorical), `step`, `epoch` (passes over the data; NaN of W&B), `time` (seconds since 1970), then one
    float column a metric, NaN where the row lacks it."""
    samples: pd.DataFrame
    """A row a sampled prompt: `run`, `step`, `prompt`, then `policy` and `reference`; of alignkit.generate `completions`, `scores`."""
    info: pd.DataFrame
    """Index `run`; `path` (absolute; None of W&B's server), `stage` (its name in a pipeline or None), `job` (number in a sweep or None),
    `status` (`done`, `pruned`, `failed`, `interrupted`, `unfinished`), `folder` (the sweep or pipeline that it is part of or None)."""

    @property
    def names(self) -> list[str]:
        """The runs, in the order in which they were found."""
        return list(self.info.index)

    def varied(self) -> list[str]:
        """Config keys with more than one value among the runs that have them, in the config's order.

        Left out are names of run directories, caches and loggers, and paths into the sweep or pipeline that a run is part of.
        """
        return [str(key) for key in self.config if not str(key).startswith(NO_CHOICES) and self._differs(str(key))]

    def only(self, mask: pd.Series[bool]) -> Runs:
        """The runs for which a Boolean Series, indexed by run, is true.

        Raises:
            UserError: when it is true for none.
        """
        chosen = mask.reindex(self.info.index).fillna(False).astype(bool)
        if not chosen.any():
            raise UserError(f"no run is left of {len(chosen)}: the mask is false for all of them. Their status: {self._statuses()}.")
        kept = chosen.index[chosen]
        history = self.history[self.history[RUN].isin(kept)]
        return Runs(
            config=self.config.loc[kept],
            results=self.results.loc[kept],
            history=history.assign(run=history[RUN].cat.set_categories(kept)),
            samples=self.samples[self.samples[RUN].isin(kept)],
            info=self.info.loc[kept],
        )

    def curve(self, metric: str) -> pd.DataFrame:
        """`run`, `step`, `value` of the rows that have a metric.

        Raises:
            UserError: when no run has logged it.
        """
        known = [str(name) for name in self.history if name not in (RUN, *CLOCKS)]
        if metric not in known:
            raise UserError(f"no run has logged {metric!r}.{did_you_mean(metric, known)} There are: {', '.join(known) or 'none'}.")
        rows = self.history.loc[self.history[metric].notna(), [RUN, STEP, metric]]
        return rows.rename(columns={metric: "value"}).reset_index(drop=True)

    def _differs(self, key: str) -> bool:
        present = {run: value for run, value in self.config[key].items() if value is None or value == value}  # NaN: the run lacks the key
        if len(set(present.values())) < 2:
            return False
        return len({"" if self._is_inside(run, value) else value for run, value in present.items()}) > 1

    def _is_inside(self, run: object, value: object) -> bool:
        """Whether a value is a path into the sweep or pipeline that the run is part of, wherever that lay when it was run."""
        folder, path = self.info.at[run, "folder"], self.info.at[run, "path"]
        written = self.config.at[run, "run_dir"] if "run_dir" in self.config else None
        if not (isinstance(value, str) and isinstance(folder, str) and isinstance(path, str) and isinstance(written, str)):
            return False
        tail = os.path.relpath(path, folder)
        return written.endswith(f"/{tail}") and value.startswith(written[: -len(tail)])

    def _statuses(self) -> str:
        return ", ".join(f"{count} {status}" for status, count in self.info["status"].value_counts().items())


def load_runs(*places: str | Path) -> Runs:
    """Read runs.

    Args:
        places: run directories; folders that hold runs at any depth (sweeps, pipelines, experiments); W&B's offline runs, a `.wandb`
            file or the folder that it is in; `wandb:entity/project`, which asks the server, as the user who is logged in.

    Raises:
        UserError: when a place holds no run, or cannot be read.
    """
    if not places:
        raise UserError("load_runs() = no place; give a run directory, a folder that holds some, or 'wandb:entity/project'.")
    directories: dict[Path, None] = {}
    others: list[LoadedRun] = []
    for place in places:
        if str(place).startswith(PREFIX):
            others += server_runs(str(place))
            continue
        path = Path(place).expanduser().resolve()
        found = list(run_directories(path))
        directories |= dict.fromkeys(found)
        if not found:
            others += offline_runs(path)
    with ThreadPoolExecutor() as pool:  # Arrow reads without Python's lock
        local = list(pool.map(read_run, directories))
    return runs_of([*local, *others])


def server_runs(place: str) -> list[LoadedRun]:
    """The runs of a project on W&B's server.

    Raises:
        UserError: when it has none.
    """
    found = list(read_server_runs(place))
    if not found:
        raise UserError(f"{place!r}: the project holds no run. Give another, as its address says: wandb:entity/project.")
    return found


def offline_runs(path: Path) -> list[LoadedRun]:
    """W&B's offline runs in a place that holds no run directory.

    Raises:
        UserError: when there is none.
    """
    files = wandb_files(path)
    if files:
        return list(read_offline_runs(files))
    if not path.exists():
        near = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise UserError(f"{path}: there is no such place.{did_you_mean(path.name, near)} Give a run directory or a folder that holds some.")
    there = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else ["a file"]
    more = f" and {len(there) - SHOWN} more" if len(there) > SHOWN else ""
    raise UserError(
        f"{path}: holds no run, which is a folder with a config.yaml (there: {', '.join(there[:SHOWN]) or 'nothing'}{more}). Give the "
        "directory that a command named at its end (`run: DIR`), or a folder above it."
    )


def runs_of(loaded: Sequence[LoadedRun]) -> Runs:
    """Frames of what was read."""
    names = list(names_of(loaded))
    info = pd.DataFrame(
        {field: [getattr(run, field) for run in loaded] for field in ("path", "stage", "job", "status", "folder")},
        index=labelled(names),
        dtype=object,
    )
    return Runs(
        config=frame([run.config for run in loaded], names),
        results=frame([{k: float("nan") if v is None else v for k, v in run.results.items()} for run in loaded], names),
        history=history_frame(loaded, names),
        samples=samples_frame(loaded, names),
        info=info,
    )


def names_of(loaded: Sequence[LoadedRun]) -> Iterator[str]:
    """Each run's name: its directory as seen from the deepest one that holds all; a number tells equal names apart."""
    directories = [run.path for run in loaded if run.path == run.name]
    root = os.path.commonpath([os.path.dirname(path) for path in directories]) if directories else ""
    seen: dict[str, int] = {}
    for run in loaded:
        name = Path(os.path.relpath(run.name, root)).as_posix() if run.path == run.name else run.name
        seen[name] = seen.get(name, 0) + 1
        yield name if seen[name] == 1 else f"{name} ({seen[name]})"


def history_frame(loaded: Sequence[LoadedRun], names: Sequence[str]) -> pd.DataFrame:
    """The histories under each other."""
    table = pa.concat_tables([run.history for run in loaded], promote_options="default")
    history: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    codes = np.repeat(np.arange(len(loaded)), [len(run.history) for run in loaded])
    history.insert(0, RUN, pd.Series(pd.Categorical.from_codes(codes, categories=labelled(names)), index=history.index))
    return history


def samples_frame(loaded: Sequence[LoadedRun], names: Sequence[str]) -> pd.DataFrame:
    """The samples under each other."""
    rows: list[dict[str, Any]] = [{**row, RUN: name} for name, run in zip(names, loaded, strict=True) for row in run.samples]
    columns = dict.fromkeys([RUN, STEP, "prompt", *(name for row in rows for name in row)])
    return pd.DataFrame(rows, columns=list(columns))
