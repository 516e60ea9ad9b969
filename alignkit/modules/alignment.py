"""What every offline objective is trained by: one optimiser step an item, means over the global batch, metrics by name."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast, final

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from alignkit.batches import PackedBatch, StepBatch
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
from alignkit.models.reference import Reference
from alignkit.modules.counted_means import CountedMeans
from alignkit.modules.diagnostics import Diagnostics
from alignkit.modules.forward import Forward, Parts
from alignkit.modules.objective import Evaluation, Objective
from alignkit.modules.recipe import Recipe
from alignkit.modules.stepping import SteppingModule
from alignkit.ranks import reader, readers, sum_over_ranks

TERMS = "alignkit/terms"
START = "alignkit/start"
MEANS = "alignkit/train_means"
"""Keys of a checkpoint: what terms keep from step to step, what validations are compared with, training rows half way."""
SHOWN = (LOSS, MARGINS, ACCURACIES, TOKEN_ACCURACY)
"""What the progress bar shows, where an objective has it."""


@final
class AlignmentModule(SteppingModule):
    """Trains any weighted sum of terms: supervised fine-tuning, reward models, the DPO family, direct preference heads.

    Optimises by hand, in one place: forward and backward per micro-batch, clip, step. Every loss is a sum over the micro-batch
    divided by the count of the *global* batch, so that the cut into micro-batches and devices changes nothing.
    """

    def __init__(self, *, parts: Parts, recipe: Recipe, objective: Objective, reference_fingerprint: str | None = None) -> None:
        super().__init__(parts=parts, recipe=recipe, reference_fingerprint=reference_fingerprint)
        self.objective = objective
        self.train_means = CountedMeans(objective.metric_names)
        self.validation_means = CountedMeans(objective.metric_names)
        self.diagnostics = Diagnostics()
        self.on_evaluated: Callable[[PackedBatch, Evaluation], None] | None = None
        """Hears of each micro-batch of a step, before the update."""
        self.step_taken = False
        """Whether the newest step changed weights: not where the guard left it out."""
        self._clock = 0.0
        self._tokens = self._filled = self._positions = 0

    def forward_of(self, batch: PackedBatch, reference: Reference | None = None) -> Forward:
        """A micro-batch under the module's models, or against another reference."""
        return Forward(self.parts if reference is None else replace(self.parts, reference=reference), batch)

    def evaluate(self, batch: PackedBatch) -> Evaluation:
        """Losses and metrics of one micro-batch."""
        return self.objective(self.forward_of(batch))

    def training_step(self, step: StepBatch, index: int) -> None:
        begun = time.perf_counter()
        optimizer, schedule = cast(LightningOptimizer, self.optimizers()), cast(LRScheduler, self.lr_schedulers())
        self.objective.before_step(step, self.forward_of)
        losses, metrics = [], []
        for number, batch in enumerate(step.micro_batches, 1):
            evaluation = self.evaluate(batch)
            if self.on_evaluated is not None:
                self.on_evaluated(batch, evaluation)
            loss = self.objective.loss(evaluation, step)
            self.learn_from(loss, is_last=number == len(step.micro_batches))
            losses.append(loss.detach())
            metrics.append(evaluation.metrics)
            self._positions += batch.input_ids.numel()
        norm = self.clip_gradients_by_norm()
        rate = optimizer.param_groups[0]["lr"]
        counts = step.global_counts
        taken = self.may_step(losses, norm, step.micro_batches, lambda: {"counts": counts, "terms": self.objective.state()})
        self.step_taken = taken
        if taken:
            self.objective.after_step()
            for of_batch in metrics:
                self.train_means.update(of_batch)
            optimizer.step()
            optimizer.zero_grad()
        else:
            self.objective.forget_step()
        self.move_on(schedule)
        self.examples_done += step.count("examples", None)
        self.completions_done += step.count("completions", None)
        self.tokens_done += step.tokens
        self.training_seconds += time.perf_counter() - begun
        self._tokens += step.tokens
        self._filled += step.filled
        self._clock += time.perf_counter() - begun
        if self.steps_done % self.recipe.log_every == 0 or self.steps_done == self.recipe.steps:
            self._log_training(rate, norm if taken else None)

    def validation_step(self, batch: PackedBatch, index: int) -> Mapping[str, Tensor]:
        """Takes in a micro-batch; returns its metrics, one value a pair or completion, for callbacks."""
        evaluation = self.evaluate(batch)
        self.validation_means.update(evaluation.metrics)
        self.diagnostics.update(evaluation, index * readers() + reader())
        return evaluation.metrics

    def on_validation_epoch_end(self) -> None:
        means = self.objective.with_total(self.validation_means.compute()) | self.diagnostics.compute()
        values = {VALIDATION + name: value for name, value in means.items()}
        self.validation_means.reset()
        self.last_validated = self.steps_done
        self.log_dict(values, logger=False)
        self.emit(values)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint[TERMS], checkpoint[START] = self.objective.state(), self.diagnostics.state()
        # Means of the steps since the last training row; the tokens behind its throughput are not worth keeping.
        checkpoint[MEANS] = self.train_means.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.objective.load_state(checkpoint[TERMS])
        self.diagnostics.load_state(checkpoint[START])
        self.train_means.load_state(checkpoint[MEANS])

    def _log_training(self, rate: float, norm: float | None) -> None:
        # Where every step of the window was left out there is nothing to tell, and torchmetrics would warn of it.
        with nullcontext() if self.train_means.update_called else warnings.catch_warnings(action="ignore"):
            means = self.train_means.compute()
        values = self.objective.with_total(means) if means else {}
        filled, positions = sum_over_ranks(torch.tensor([self._filled, self._positions])).tolist()
        values |= {
            LEARNING_RATE: rate,
            **({} if norm is None else {GRADIENT_NORM: norm}),
            **self.guard.metrics(),
            TOKENS_PER_SECOND: self._tokens / self._clock,
            PADDING_FRACTION: 1.0 - filled / positions,
        }
        self.train_means.reset()
        self._clock, self._tokens, self._filled, self._positions = 0.0, 0, 0, 0
        self.emit({TRAIN + name: value for name, value in values.items()})
        self.log_dict({name: values[name] for name in SHOWN if name in values}, prog_bar=True, logger=False)
