"""The progress bar: optimiser steps, and the few numbers that say whether a run works."""

from __future__ import annotations

from typing import Any, final

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


@final
class Progress(RichProgressBar):
    """Lightning's Rich bar without what means nothing here: the logger's version, and epochs of a run that is one epoch."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name != "v_num"}

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"
