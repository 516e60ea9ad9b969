"""What users ask of a preference model beside its loss, on held-out data: displacement, calibration, length."""

from __future__ import annotations

import warnings
from typing import Any, final

import torch
from torch import Tensor, nn
from torchmetrics import PearsonCorrCoef
from torchmetrics.classification import BinaryCalibrationError

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
from alignkit.modules.counted_means import CountedMeans
from alignkit.modules.objective import Evaluation


@final
class Diagnostics(nn.Module):
    """Fed with every validation batch, in the same order each time; the first validation is what later ones are compared with."""

    def __init__(self) -> None:
        super().__init__()
        self.calibration = BinaryCalibrationError(n_bins=15, norm="l1")
        self.correlation = PearsonCorrCoef()
        self.changes = CountedMeans((CHOSEN_CHANGE, CHOSEN_FELL))
        self._start: list[Tensor] = []
        self._started = False

    def update(self, evaluation: Evaluation, index: int) -> None:
        """Take in validation batch number `index`."""
        metrics = evaluation.metrics
        if MARGINS in metrics and len(metrics[MARGINS]):
            margins = metrics[MARGINS]
            self.calibration.update(margins.abs().sigmoid(), (margins > 0).to(torch.int64))
        lengths = next((output.lengths for output in evaluation.outputs.values() if output.lengths is not None), None)
        if lengths is not None:
            rewards = torch.cat([metrics[CHOSEN_REWARDS], metrics[REJECTED_REWARDS]])
            if len(rewards):
                self.correlation.update(rewards.float(), torch.cat(lengths).to(rewards.device, torch.float32))
        if CHOSEN_LOGPS in metrics:
            logps = metrics[CHOSEN_LOGPS].float().cpu()
            if not self._started:
                self._start.append(logps)
            change = logps - self._start[index]
            self.changes.update({CHOSEN_CHANGE: change, CHOSEN_FELL: (change < 0).float()})

    def compute(self) -> dict[str, float]:
        """Everything that there were data for, by name; forgets the validation, but not the first one."""
        values: dict[str, float] = {}
        if self.calibration._update_count:
            values[CALIBRATION_ERROR] = float(self.calibration.compute())
        if self.correlation._update_count and float(self.correlation.n_total) > 2:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The variance of predictions or target is close to zero")
                correlation = float(self.correlation.compute())
            if correlation == correlation:  # not where all rewards, or all lengths, are equal
                values[LENGTH_CORRELATION] = correlation
        if self._started and self.changes._update_count:
            values |= self.changes.compute()
        self._started = self._started or bool(self._start)
        for metric in (self.calibration, self.correlation, self.changes):
            metric.reset()
        return values

    def state(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"start": self._start, "started": self._started}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._start, self._started = state["start"], state["started"]
