"""What every module that is trained here shares: models, counters, the optimizer, and what a checkpoint holds beside weights."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn

from alignkit.errors import DivergedError
from alignkit.models.reference import MovingReference, check_reference
from alignkit.modules.forward import Parts
from alignkit.modules.recipe import Recipe
from alignkit.optim import build_optimizer, build_schedule

REFERENCE = "alignkit/reference_fingerprint"
PROGRESS = "alignkit/progress"
"""Keys of a checkpoint: whom the run began against, and the counters."""
COUNTERS = ("steps_done", "last_validated", "examples_done", "completions_done", "tokens_done", "training_seconds")


class SteppingModule(LightningModule, ABC):
    """Optimises by hand, one item of the data loader after the other; its step is what `steps`, schedules and logs count."""

    automatic_optimization = False

    def __init__(self, *, parts: Parts, recipe: Recipe, reference_fingerprint: str | None) -> None:
        """`reference_fingerprint`: of the reference's weights before the first update; a checkpoint of another one is refused."""
        super().__init__()
        self.reference_fingerprint = reference_fingerprint
        self.backbone = parts.backbone
        self.heads = parts.heads
        self.reference = parts.reference
        self.states = parts.states
        self.recipe = recipe
        self.steps_done = 0
        self.last_validated = -1
        """`steps_done` at the newest validation."""
        self.examples_done = self.completions_done = self.tokens_done = 0
        self.training_seconds = 0.0
        """Of training steps alone: no validation, no start."""

    @property
    def parts(self) -> Parts:
        """The models."""
        return Parts(backbone=self.backbone, heads=self.heads, reference=self.reference, states=self.states)

    def trunk_parameters(self) -> dict[str, nn.Parameter]:
        """What the optimizer knows as the trunk, by name."""
        return dict(self.backbone.named_parameters())

    def emit(self, values: Mapping[str, float]) -> None:
        """Hand metrics to every logger, under the number of steps done."""
        for logger in self.trainer.loggers:
            logger.log_metrics(dict(values), step=self.steps_done)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = build_optimizer(self.recipe.optimizer, trunk=self.trunk_parameters(), heads=self.heads.parameters())
        schedule = build_schedule(self.recipe.schedule, optimizer, self.recipe.steps)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # A reference that stands still is rebuilt from its own source; a checkpoint holds what training changes.
        checkpoint["state_dict"] = {key: value for key, value in checkpoint["state_dict"].items() if not self._rebuilt(key)}
        checkpoint[REFERENCE] = self.reference_fingerprint
        checkpoint[PROGRESS] = {name: getattr(self, name) for name in COUNTERS}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_reference(checkpoint[REFERENCE], self.reference_fingerprint)
        checkpoint["state_dict"] |= {key: value for key, value in self.state_dict().items() if self._rebuilt(key)}
        for name, value in checkpoint[PROGRESS].items():
            setattr(self, name, value)

    def clip_gradients_by_norm(self) -> float:
        """Clip the gradient and refuse one that is not finite, before it can reach the weights.

        Returns:
            The norm before it was clipped.

        Raises:
            DivergedError: when the norm is not finite.
        """
        parameters = [parameter for parameter in self._trained() if parameter.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.recipe.optimizer.clip_norm or float("inf")))
        if not math.isfinite(norm):
            raise DivergedError(
                f"step {self.steps_done + 1}: the gradient norm is {norm}. The weights are those of step {self.steps_done}. "
                f"Try a smaller learning rate: optimizer.lr={self.recipe.optimizer.lr / 10:g}"
            )
        return norm

    def _trained(self) -> Iterator[nn.Parameter]:
        yield from self.trunk_parameters().values()
        yield from self.heads.parameters()

    def _rebuilt(self, key: str) -> bool:
        return key.startswith("reference.") and not isinstance(self.reference, MovingReference)
