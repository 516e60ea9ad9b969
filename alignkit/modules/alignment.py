"""What every objective shares: one optimiser step an item, means over the global batch, metrics by name.

B pairs or completions of a micro-batch   N completion tokens
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast, final

import torch
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from alignkit.batches import PackedBatch, StepBatch
from alignkit.errors import DivergedError
from alignkit.metrics import (
    ACCURACIES,
    GRADIENT_NORM,
    LEARNING_RATE,
    LOSS,
    MARGINS,
    PADDING_FRACTION,
    TOKEN_ACCURACY,
    TOKENS_PER_SECOND,
    TRAIN,
    VALIDATION,
)
from alignkit.models.backbone import Backbone
from alignkit.models.heads import Heads
from alignkit.models.reference import Reference
from alignkit.models.terminal_states import TerminalStates, TrunkStates
from alignkit.modules.counted_means import CountedMeans
from alignkit.optim import build_optimizer, build_schedule
from alignkit.optimizer_settings import OptimizerSettings, ScheduleSettings

PROGRESS = (LOSS, MARGINS, ACCURACIES, TOKEN_ACCURACY)
"""What the progress bar shows, where an objective has it."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """What a module says of one micro-batch."""

    losses: Tensor
    """[B] or [N] float32, nats, with gradient: the module's `count` says which."""
    metrics: Mapping[str, Tensor]
    """Values [B] or [N] by metric name, without gradient."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """The models that a module trains or measures against."""

    backbone: Backbone
    heads: Heads
    """Empty where the objective reads none."""
    reference: Reference | None
    """Frozen; None where the objective needs none."""
    states: TerminalStates | None = None
    """What heads read of a frozen trunk that is not run; None runs it."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a module is trained."""

    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    steps: int
    """Optimiser steps of the whole run."""
    log_every: int
    """Optimiser steps between training rows."""


class AlignmentModule(LightningModule, ABC):
    """Optimises by hand, in one place: forward and backward per micro-batch, clip, step.

    Every loss is a sum over the micro-batch divided by the count of the *global* batch, so that the cut into micro-batches and
    devices changes nothing.
    """

    automatic_optimization = False
    completions: ClassVar[int] = 2
    """Completions of an example that the objective reads."""
    uses_head: ClassVar[bool] = False
    """Whether scores of a head are part of the objective."""
    uses_reference: ClassVar[bool] = False
    """Whether the objective always needs a reference."""

    def __init__(self, *, parts: Parts, recipe: Recipe, metric_names: tuple[str, ...]) -> None:
        """`metric_names` are the keys of every `Objective.metrics` of the module."""
        super().__init__()
        self.backbone = parts.backbone
        self.heads = parts.heads
        self.reference = parts.reference
        self.states = parts.states or TrunkStates(parts.backbone)
        self.recipe = recipe
        self.train_means = CountedMeans((LOSS, *metric_names))
        self.validation_means = CountedMeans((LOSS, *metric_names))
        self.steps_done = 0
        self.last_validated = -1
        """`steps_done` at the newest validation."""
        self.examples_done = self.tokens_done = 0
        self.training_seconds = 0.0
        """Of training steps alone: no validation, no start."""
        self._clock = 0.0
        self._tokens = self._filled = self._positions = 0

    @abstractmethod
    def objective(self, batch: PackedBatch) -> Objective:
        """Losses and metrics of one micro-batch."""

    def count(self, step: StepBatch) -> int:
        """What the sum of a global batch's losses is divided by."""
        return step.global_examples

    def values_at_reference(self) -> Mapping[str, float]:
        """What the loss and metrics of any pair are, in closed form, while policy and reference are equal."""
        return {}

    def training_step(self, step: StepBatch, index: int) -> None:
        begun = time.perf_counter()
        optimizer, schedule = cast(LightningOptimizer, self.optimizers()), cast(LRScheduler, self.lr_schedulers())
        count = self.count(step)
        for batch in step.micro_batches:
            objective = self.objective(batch)
            self.manual_backward(objective.losses.sum() / count)
            self.train_means.update({LOSS: objective.losses, **objective.metrics})
            self._positions += batch.input_ids.numel()
        norm = self._clip()
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        self.steps_done += 1
        self.examples_done += sum(batch.examples for batch in step.micro_batches)
        self.tokens_done += step.tokens
        self.training_seconds += time.perf_counter() - begun
        self._tokens += step.tokens
        self._filled += step.filled
        self._clock += time.perf_counter() - begun
        if self.steps_done % self.recipe.log_every == 0 or self.steps_done == self.recipe.steps:
            self._log_training(rate, norm)

    def validation_step(self, batch: PackedBatch, index: int) -> None:
        objective = self.objective(batch)
        self.validation_means.update({LOSS: objective.losses, **objective.metrics})

    def on_validation_epoch_end(self) -> None:
        values = {VALIDATION + name: float(value) for name, value in self.validation_means.compute().items()}
        self.validation_means.reset()
        self.last_validated = self.steps_done
        self.log_dict(values, logger=False)
        self.emit(values)

    def emit(self, values: Mapping[str, float]) -> None:
        """Hand metrics to every logger, under the number of optimiser steps done."""
        for logger in self.trainer.loggers:
            logger.log_metrics(dict(values), step=self.steps_done)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        trunk = dict(self.backbone.named_parameters())
        optimizer = build_optimizer(self.recipe.optimizer, trunk=trunk, heads=self.heads.parameters())
        schedule = build_schedule(self.recipe.schedule, optimizer, self.recipe.steps)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # The reference is rebuilt from its own source; a checkpoint holds what training changes.
        checkpoint["state_dict"] = {key: value for key, value in checkpoint["state_dict"].items() if not key.startswith("reference.")}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] |= {key: value for key, value in self.state_dict().items() if key.startswith("reference.")}

    def _clip(self) -> float:
        """Clip the gradient and refuse one that is not finite, before it can reach the weights."""
        parameters = [parameter for parameter in (*self.backbone.parameters(), *self.heads.parameters()) if parameter.grad is not None]
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.recipe.optimizer.clip_norm or float("inf")))
        if not math.isfinite(norm):
            raise DivergedError(
                f"step {self.steps_done + 1}: the gradient norm is {norm}. The weights are those of step {self.steps_done}. "
                f"Try a smaller learning rate: optimizer.lr={self.recipe.optimizer.lr / 10:g}"
            )
        return norm

    def _log_training(self, rate: float, norm: float) -> None:
        values = {name: float(value) for name, value in self.train_means.compute().items()}
        values |= {
            LEARNING_RATE: rate,
            GRADIENT_NORM: norm,
            TOKENS_PER_SECOND: self._tokens / self._clock,
            PADDING_FRACTION: 1.0 - self._filled / self._positions,
        }
        self.train_means.reset()
        self._clock, self._tokens, self._filled, self._positions = 0.0, 0, 0, 0
        self.emit({TRAIN + name: value for name, value in values.items()})
        self.log_dict({name: values[name] for name in PROGRESS if name in values}, prog_bar=True, logger=False)
