"""When a run's state is saved: at validations, every few minutes, at signals, and when a step fails."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any, cast, final

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from alignkit import ranks
from alignkit.callbacks.checkpoint_files import CheckpointFiles
from alignkit.callbacks.interruption import Interruption, Stopped, validation_is_due
from alignkit.callbacks.random_states import RandomStates
from alignkit.manifests import step_name
from alignkit.metrics import VALIDATION, metric
from alignkit.modules.stepping import SteppingModule
from alignkit.run_dir import RunDir
from alignkit.settings import RunSettings

RETRY_SECONDS = 30.0
"""Between attempts after one that failed."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Steady:
    """What a step changes before it changes weights, as it was when the step began: enough to undo a step that failed."""

    writes: int
    """That weights had seen: updates of the optimizer, and what autograd counts of others."""
    module: dict[str, Any]
    """What the module adds to a checkpoint."""
    random: dict[str, Any]
    """States of the random numbers."""


@final
class KeptCheckpoints(Checkpoint):
    """Saves `checkpoints/step-NNNNNN.ckpt`, always between two steps, never twice at one.

    A step that raises leaves no half of itself: weights and optimizer are those of the step before until the update itself, and what else
    a step changes is put back, so that a run that failed goes on from its last whole step. (One process; several would have to agree,
    which they may no longer be able to.) As a subclass of Lightning's `Checkpoint` it is called after all other callbacks.
    """

    def __init__(self, run: RunDir, files: CheckpointFiles, random: RandomStates, *, minutes: float | None) -> None:
        """`minutes`: between two checkpoints at most, but for validations and the length of a step; None only saves at validations."""
        self.files = files
        self._run = run
        self._random = random
        self._minutes = minutes
        self._clock = time.monotonic()
        self._saved = -1
        self._failed = False
        self._updates = 0
        self._steady: Steady | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._clock = time.monotonic()
        for optimizer in trainer.optimizers:
            optimizer.register_step_pre_hook(self._count)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if ranks.ranks() == 1:
            self._steady = self.steady(cast(SteppingModule, pl_module))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._steady = None
        if not validation_is_due(trainer, batch_idx) and self._is_time():
            self.save(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn is TrainerFn.FITTING:
            self.save(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        module, before = cast(SteppingModule, pl_module), self._steady
        self._steady = None
        if before is None or not isinstance(exception, Exception) or isinstance(exception, Stopped):
            return
        if self.writes(module) == before.writes and module.steps_done != self._saved:
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            checkpoint |= before.module
            checkpoint["callbacks"][self._random.state_key] = before.random
            self.files.save_checkpoint(checkpoint, self._run.checkpoints / step_name(module.steps_done))
            self.files.wait()

    def save(self, trainer: Trainer) -> None:
        """Save the state, unless that of this step is; all ranks do it together."""
        step = cast(SteppingModule, trainer.lightning_module).steps_done
        if step == self._saved:
            return
        trainer.save_checkpoint(self._run.checkpoints / step_name(step), weights_only=False)
        self._failed = ranks.from_first(self.files.trouble is not None)
        self._saved = self._saved if self._failed else step
        self._clock = time.monotonic()

    def _is_time(self) -> bool:
        if self._minutes is None and not self._failed:
            return False
        limit = RETRY_SECONDS if self._failed else 60.0 * cast(float, self._minutes)
        return ranks.from_first(time.monotonic() - self._clock >= limit)

    def steady(self, module: SteppingModule) -> Steady:
        """What is to be kept at the beginning of a step."""
        own: dict[str, Any] = {"state_dict": {}}
        module.on_save_checkpoint(own)
        del own["state_dict"]
        return Steady(writes=self.writes(module), module=copy.deepcopy(own), random=self._random.state_dict())

    def writes(self, module: SteppingModule) -> int:
        """How often weights were written to. Fused optimizers escape autograd's count."""
        return self._updates + sum(parameter._version for parameter in module.parameters())

    def _count(self, *args: object) -> None:
        self._updates += 1


def saving(settings: RunSettings, run: RunDir, files: CheckpointFiles, interruption: Interruption) -> list[Callback]:
    """What keeps the state of a run, and its best weights."""
    random = RandomStates()
    if not settings.callbacks.checkpoints:
        return [random]
    kept = KeptCheckpoints(run, files, random, minutes=settings.callbacks.checkpoint_minutes)
    interruption.save = kept.save
    return [random, best_checkpoint(settings, run), kept]


def best_checkpoint(settings: RunSettings, run: RunDir) -> ModelCheckpoint:
    """Keeps the best weights by the loss's monitor."""
    better = metric(settings.loss.monitor.removeprefix(VALIDATION)).better
    return ModelCheckpoint(
        dirpath=run.checkpoints,
        filename="best",
        monitor=settings.loss.monitor,
        mode="min" if better == "lower" else "max",
        save_weights_only=True,
        enable_version_counter=False,
    )
