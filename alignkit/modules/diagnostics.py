"""What users ask of a preference model beside its loss, on held-out data: displacement, calibration, length."""

from __future__ import annotations

import warnings
from typing import Any, final

import torch
from torch import Tensor
from torchmetrics.functional import pearson_corrcoef
from torchmetrics.functional.classification import binary_calibration_error

from alignkit.metrics import (
    CALIBRATION_ERROR,
    CHOSEN_CHANGE,
    CHOSEN_FELL,
    CHOSEN_LOGPS,
    CHOSEN_REWARDS,
    LENGTH_CORRELATION,
    MARGINS,
    REJECTED_REWARDS,
)
from alignkit.modules.objective import Evaluation
from alignkit.ranks import gather

NOTHING = torch.zeros(0)


@final
class Diagnostics:
    """Fed with every validation batch under the same number each time; the first validation is what later ones are compared with.

    Ranks see different batches of one validation; what is computed is of all of them, on each rank.
    """

    def __init__(self) -> None:
        self._margins: list[Tensor] = []
        self._rewards: list[Tensor] = []
        self._lengths: list[Tensor] = []
        self._changes: list[Tensor] = []
        self._start: dict[int, Tensor] = {}
        self._started = False

    def update(self, evaluation: Evaluation, index: int) -> None:
        """Take in validation batch number `index`, counted over all ranks."""
        metrics = evaluation.metrics
        if MARGINS in metrics:
            self._margins.append(metrics[MARGINS].float().cpu())
        lengths = next((output.lengths for output in evaluation.outputs.values() if output.lengths is not None), None)
        if lengths is not None:
            self._rewards.append(torch.cat([metrics[CHOSEN_REWARDS], metrics[REJECTED_REWARDS]]).float().cpu())
            self._lengths.append(torch.cat(lengths).float().cpu())
        if CHOSEN_LOGPS in metrics:
            logps = metrics[CHOSEN_LOGPS].float().cpu()
            if not self._started:
                self._start[index] = logps
            self._changes.append(logps - self._start[index])

    def compute(self) -> dict[str, float]:
        """Everything that there were data for, by name; forgets the validation, but not the first one."""
        own = [torch.cat([NOTHING, *values]) for values in (self._margins, self._rewards, self._lengths, self._changes)]
        margins, rewards, lengths, changes = (torch.cat(parts) for parts in zip(*gather(own), strict=True))
        values: dict[str, float] = {}
        if len(margins):
            values[CALIBRATION_ERROR] = float(binary_calibration_error(margins.abs().sigmoid(), (margins > 0).to(torch.int64), n_bins=15))
        if len(rewards) > 2:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The variance of predictions or target is close to zero")
                correlation = float(pearson_corrcoef(rewards, lengths))
            if correlation == correlation:  # not where all rewards, or all lengths, are equal
                values[LENGTH_CORRELATION] = correlation
        if self._started and len(changes):
            values |= {CHOSEN_CHANGE: float(changes.mean()), CHOSEN_FELL: float((changes < 0).float().mean())}
        self._started = self._started or bool(self._start)
        self._margins, self._rewards, self._lengths, self._changes = [], [], [], []
        return values

    def state(self) -> dict[str, Any]:
        """What a resumed run must know, of all ranks."""
        start = {index: logps for part in gather(self._start) for index, logps in part.items()}
        return {"start": start, "started": any(gather(self._started))}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`, whatever ranks there are now."""
        self._start, self._started = state["start"], state["started"]
