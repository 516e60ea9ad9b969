"""What every module that is trained here shares: models, counters, the optimizer, and what a checkpoint holds beside weights."""

from __future__ import annotations

import warnings
from abc import ABC
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LRScheduler

from alignkit.batches import PackedBatch
from alignkit.errors import DivergedError
from alignkit.models.backbone import Backbone
from alignkit.models.conversions import conversions_kept
from alignkit.models.recomputation import Recomputation
from alignkit.models.reference import CachedReference, LiveReference, MovingReference, check_reference
from alignkit.models.sharding import whole_weights
from alignkit.modules.failures import SHOWN_KEYS, Failure, FailureFiles, Random, Share, on_cpu, random_states, suspects
from alignkit.modules.forward import Parts
from alignkit.modules.gradients import all_finite, average_gradients, clip_gradients
from alignkit.modules.guard import GoBack, Guard, Seen, Verdict
from alignkit.modules.recipe import Recipe
from alignkit.optim import build_optimizer, build_schedule
from alignkit.ranks import gather, is_first, largest, readers

REFERENCE = "alignkit/reference_fingerprint"
PROGRESS = "alignkit/progress"
GUARD = "alignkit/guard"
"""Keys of a checkpoint: whom the run began against, the counters, and what was done about steps that diverged."""
Known = Callable[[], Mapping[str, Any]]
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
        self.guard = Guard(recipe.divergence)
        self.failures: FailureFiles | None = None
        """Where steps that are not taken are kept; None keeps none."""
        self.can_go_back: Callable[[], bool] = lambda: False
        """Whether there is a checkpoint."""
        self._random: Random = {}
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

    @property
    def products(self) -> torch.dtype:
        """The type of matrix products, which decides what is rounding."""
        kind = self.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.backbone.lm.dtype

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

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self._random = {} if self.failures is None else random_states(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises DivergedError where weights are not finite: no checkpoint holds any."""
        if largest(not all_finite(checkpoint["state_dict"].values())):
            raise DivergedError(
                f"step {self.steps_done}: the update has made weights that are not finite. Nothing is saved of them; the checkpoint before "
                f"is good. {self._advice()}"
            )
        # A reference that stands still is rebuilt from its own source; a checkpoint holds what training changes.
        checkpoint["state_dict"] = {key: value for key, value in checkpoint["state_dict"].items() if not self._rebuilt(key)}
        checkpoint[REFERENCE] = self.reference_fingerprint
        checkpoint[PROGRESS] = {name: getattr(self, name) for name in COUNTERS}
        checkpoint[GUARD] = self.guard.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_reference(checkpoint[REFERENCE], self.reference_fingerprint)
        checkpoint["state_dict"] |= {key: value for key, value in self.state_dict().items() if self._rebuilt(key)}
        for name, value in checkpoint[PROGRESS].items():
            setattr(self, name, value)
        if self.steps_done < self.recipe.steps and (loops := checkpoint.get("loops")):
            # Lightning ends at once where the last batch of its one epoch was done; a run may have been given more steps since.
            loops["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False
        if GUARD in checkpoint:  # not of an older version
            self.guard.load_state(checkpoint[GUARD])

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
        """Clip the gradient; one that is not finite is left to `may_step`. Under fp16 gradients are those of a scaled loss.

        Returns:
            The norm before it was clipped, as if nothing was scaled.
        """
        parameters = [parameter for parameter in self._trained() if parameter.requires_grad]
        if self.mesh is not None:  # what is cut has met its other parts by itself
            whole = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
            average_gradients(whole, self.mesh["data_parallel"].get_group())
        scale = self._scale()
        return clip_gradients(parameters, (self.recipe.optimizer.clip_norm or float("inf")) * scale) / scale

    def may_step(self, losses: Sequence[Tensor], norm: float, batches: Sequence[PackedBatch], known: Known = dict) -> bool:
        """Whether the gradients may change the weights. Where they may not they are dropped, and what the step read is kept.

        Under fp16 a norm that is not finite says that the scale is too large: the precision plugin leaves the step out and scales less.

        Args:
            losses: [] each, of the micro-batches `batches`: their shares of what is minimised.
            norm: of the gradient before clipping.
            known: gives what else a `Failure` holds of this objective.

        Raises:
            DivergedError: when the run ends here.
            GoBack: when it goes on from its newest checkpoint.
        """
        seen = Seen.of(losses, norm=norm, scale=self._scale())
        verdict, why = self.guard.judge(seen, can_go_back=self.can_go_back)
        if why is None:
            return True
        shares = gather(Share(batches=list(map(on_cpu, batches)), losses=list(seen.losses), random=self._random))
        why, keys = suspects(why, shares, self.suspected)
        self.refuse(verdict, why, self.failure(verdict, why, keys, shares, loss=seen.loss, norm=norm, **known()))
        return False

    def suspected(self, batch: PackedBatch) -> tuple[int, ...]:
        """Which of the loaded examples a micro-batch holds."""
        return batch.example_keys

    def move_on(self, schedule: LRScheduler) -> None:
        """The step is done, whether it was taken or not."""
        with warnings.catch_warnings() if self.steps_done == 0 else nullcontext():
            # Of a first step that is left out: the learning rate moves on all the same.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step\\(\\)` before `optimizer.step\\(\\)`")
            schedule.step()
        self.steps_done += 1
        if isinstance(self.reference, MovingReference):
            self.reference.after_step(self.steps_done, self.backbone)

    def failure(self, verdict: Verdict, why: str, keys: tuple[int, ...], shares: list[Share], **known: Any) -> Failure:
        """The record of this step."""
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        return Failure(
            step=self.steps_done + 1,
            batch=self.steps_done + self.guard.left_out,
            verdict=verdict.value,
            why=why,
            keys=keys,
            rates=[float(group["lr"]) for group in optimizer.param_groups],
            shares=shares,
            **known,
        )

    def refuse(self, verdict: Verdict, why: str, failure: Failure) -> None:
        """Keep a step that is not taken, drop its gradients, and say so. Raises what `may_step` raises."""
        step, replay = self.steps_done + 1, ""
        if self.failures is not None:
            replay = f". The batch is kept: python -m alignkit.audit failure={self.failures.keep(failure)}"
            if verdict is not Verdict.STOP:
                self.failures.say(f"step {step}: {why}: {verdict.value}{replay}")
        if verdict is Verdict.STOP:
            why += self._rows(failure.keys[:SHOWN_KEYS])
            skip = ", or leave such steps out: divergence.action=skip" if self.guard.settings.action == "stop" else ""
            raise DivergedError(f"step {step}: {why}. The weights are those of step {self.steps_done}. {self._advice()}{skip}{replay}")
        if verdict is Verdict.ROLL_BACK:
            raise GoBack
        self.zero_grad()

    def has_finite_weights(self) -> bool:
        """On all ranks."""
        return not largest(not all_finite(self.state_dict().values()))

    def _rows(self, keys: Sequence[int]) -> str:
        """Where the data hold examples, from the first rank, as an end of a sentence."""
        if self.failures is None or not is_first():
            return ""
        rows = self.failures.rows(keys)
        first, *others = [rows[key] for key in keys if key in rows] or [""]
        return f": {first}" * bool(first) + "".join(f", {row.rpartition(', ')[2]}" for row in others)  # all of one file

    def _advice(self) -> str:
        return f"Try a smaller learning rate: optimizer.lr={self.recipe.optimizer.lr / 10:g}"

    def _scale(self) -> float:
        scaler = None if self._trainer is None else getattr(self.trainer.precision_plugin, "scaler", None)
        return 1.0 if scaler is None else float(scaler.get_scale())

    def _trained(self) -> Iterator[nn.Parameter]:
        yield from self.trunk_parameters().values()
        yield from self.heads.parameters()

    def _rebuilt(self, key: str) -> bool:
        return key.startswith("reference.") and not isinstance(self.reference, MovingReference)
