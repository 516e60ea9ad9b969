"""What every module that is trained here shares: models, counters, the optimizer, and what a checkpoint holds beside weights."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from lightning import LightningModule
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from alignkit.errors import DivergedError
from alignkit.models.backbone import Backbone
from alignkit.models.conversions import conversions_kept
from alignkit.models.recomputation import Recomputation
from alignkit.models.reference import CachedReference, LiveReference, MovingReference, check_reference
from alignkit.models.sharding import whole_weights
from alignkit.modules.forward import Parts
from alignkit.modules.gradients import average_gradients, clip_gradients
from alignkit.modules.recipe import Recipe
from alignkit.optim import build_optimizer, build_schedule
from alignkit.ranks import readers

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
        self._recomputation: Recomputation | None = None
        self.mesh: DeviceMesh | None = None
        """The processes among which the models are cut, `data_parallel` by `tensor_parallel`; None where each holds all of them."""

    @property
    def parts(self) -> Parts:
        """The models."""
        return Parts(backbone=self.backbone, heads=self.heads, reference=self.reference, states=self.states)

    def other_trunks(self) -> Iterator[Backbone]:
        """The language models beside the policy."""
        if isinstance(self.reference, LiveReference | MovingReference | CachedReference) and self.reference.backbone is not None:
            yield self.reference.backbone

    @contextmanager
    def whole_models(self) -> Iterator[None]:
        """All weights at hand where they are cut: for passes without gradient, of which processes may run different numbers."""
        with ExitStack() as stack:
            for backbone in (self.backbone, *self.other_trunks()):
                stack.enter_context(whole_weights(backbone))
            yield

    def configure_model(self) -> None:
        """Nothing: models are cut before the trainer sees them. Lightning asks for the method."""

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

    def learn_from(self, loss: Tensor, *, is_last: bool) -> None:
        """Add the gradient of `loss` [], a micro-batch's share of what is minimised over all ranks.

        Every rank calls it as often in a step, for ranks exchange gradients: copies of a model at the last one, parts of a model each time.
        """
        if not loss.requires_grad:  # no term reads any of the examples
            if not isinstance(self.trainer.strategy, ParallelStrategy):
                return
            loss = loss + sum(parameter.flatten()[:1].sum() * 0 for parameter in self._trained() if parameter.requires_grad)
        waits = not is_last and isinstance(self.trainer.strategy, ParallelStrategy)
        with self.trainer.strategy.block_backward_sync() if waits else nullcontext():  # type: ignore[attr-defined]
            # Ranks take the mean of their gradients, where the sum is what is asked for.
            self.manual_backward(loss * readers() if readers() > 1 else loss)

    @contextmanager
    def frugal_gradients(self) -> Iterator[None]:
        """Between two optimiser steps: weights are converted once, cheap middle results are not kept, and no gradient waits for another."""
        with ExitStack() as stack:
            if self.mesh is None:  # weights that are cut come and go
                convert = stack.enter_context(conversions_kept(self.device.type))
                self._recomputation = self._recomputation or Recomputation(self.backbone.decoder)
                stack.enter_context(self._recomputation(convert))
                stack.enter_context(self.backbone.converting(convert))
                if not isinstance(self.trainer.strategy, ParallelStrategy):
                    stack.enter_context(self.backbone.adding_gradients())
            yield

    def clip_gradients_by_norm(self) -> float:
        """Clip the gradient and refuse one that is not finite, before it can reach the weights.

        Under fp16 gradients are those of a scaled loss. A norm that is not finite there says that the scale is too large: the precision
        plugin leaves the step out and scales less.

        Returns:
            The norm before it was clipped.

        Raises:
            DivergedError: when the norm is not finite.
        """
        parameters = [parameter for parameter in self._trained() if parameter.requires_grad]
        if self.mesh is not None:  # what is cut has met its other parts by itself
            whole = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
            average_gradients(whole, self.mesh["data_parallel"].get_group())
        scaler = None if self._trainer is None else getattr(self.trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        norm = clip_gradients(parameters, (self.recipe.optimizer.clip_norm or float("inf")) * scale) / scale
        if not math.isfinite(norm) and scale <= 1:
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
