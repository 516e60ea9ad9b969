"""What W&B has of a run that is resumed, so that none of its steps comes twice, goes back or is missing there."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias, final

from alignkit.run_dir import RunDir, Scalar, read_jsonl

GLOBAL_STEP = "trainer/global_step"
"""As Lightning's logger names the step."""
OWN = ("step", "epoch", "time")
"""Of a row of `metrics.jsonl`, what was not logged by its name."""
RowKey: TypeAlias = tuple[float | None, frozenset[str]]
"""The step and the names of a row that was logged."""


@final
class Earlier:
    """The rows that earlier parts of a run have logged, by W&B's own files.

    A resumed run computes again what it had computed after its last checkpoint, to the same numbers: what W&B has of that is left out.
    What it lacks, because its process keeps rows in memory for a while and was killed with the run, stands in `metrics.jsonl`.
    """

    def __init__(self, run: RunDir) -> None:
        """Before W&B begins, which makes a file of its own."""
        from alignkit.analysis.wandb_offline import wandb_files

        self._run = run
        self._files = wandb_files(run.path / "wandb")
        self._known: set[RowKey] = set()

    def has(self, step: int | None, names: Iterable[str]) -> bool:
        """Whether W&B has a row already."""
        return key_of(step, names) in self._known

    def catch_up(self, tracked: Any) -> int:
        """See what W&B has and log what it lacks; how many rows that was."""
        self._known = self._of_files()
        if self._known and tracked.settings.mode == "online":
            # The server may lack the last ones of a process that was killed. It tells the last that it has.
            last = tracked.summary.get(GLOBAL_STEP)
            self._known = {key for key in self._known if isinstance(last, int | float) and key[0] is not None and key[0] <= last}
        newest = max((step for step, _ in self._known if step is not None), default=0)
        done = 0
        for row in self._rows():
            step, values = int(row["step"] or 0), logged_of(row)
            if step >= newest and not self.has(step, values):
                tracked.log({**values, GLOBAL_STEP: step})
                self._known.add(key_of(step, values))
                done += 1
        return done

    def _of_files(self) -> set[RowKey]:
        from alignkit.analysis.wandb_offline import row_keys

        found: set[RowKey] = set()
        for file in self._files:
            with suppress(OSError, ValueError):  # a file of a process that was killed at once is empty
                found |= row_keys(file)
        return found

    def _rows(self) -> list[dict[str, Scalar]]:
        with suppress(OSError):
            return list(read_jsonl(self._run.metrics)) if self._files else []
        return []


def key_of(step: int | None, names: Iterable[str]) -> RowKey:
    """What tells a row from others."""
    return step, frozenset(name for name in names if name not in OWN)


def logged_of(row: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """What a row of `metrics.jsonl` holds of metrics; null stands for what is not finite."""
    return {name: math.nan if value is None else value for name, value in row.items() if name not in OWN}
