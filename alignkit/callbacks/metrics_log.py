"""`metrics.jsonl`: the record of truth of a run, written whether or not anything else listens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from alignkit.run_dir import RunDir


@final
class MetricsLog(Logger):
    """Appends one row a call; Lightning's own CSV logger deletes the old file when a run is resumed."""

    def __init__(self, run: RunDir, *, steps_per_epoch: int) -> None:
        super().__init__()
        self._run = run
        self._steps_per_epoch = steps_per_epoch

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return self._run.path.name

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._run.append_metrics(metrics, step=step or 0, epoch=(step or 0) / self._steps_per_epoch)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """`config.yaml` holds them."""
