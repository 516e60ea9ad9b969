"""A job of an Optuna study tells the study how it fares, and stops where the study has seen enough."""

from __future__ import annotations

import json
from typing import Any, final

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from alignkit import ranks
from alignkit.callbacks.interruption import Stopped
from alignkit.callbacks.pruners import build_pruner
from alignkit.errors import UserError
from alignkit.foreign_files import is_contained
from alignkit.run_dir import RunDir


@final
class Pruning(Callback):
    """Reports a validation metric under the number of steps done, and stops training where the study's pruner says so.

    Training ends between two steps, after everything that belongs to the validation has been written, so that a pruned run leaves a
    whole directory and `pruned.json`. The first rank asks the study; all ranks do what it was told.
    """

    def __init__(self, run: RunDir) -> None:
        """`run`: holds `trial.json`, as the study wrote it."""
        self.run = run
        self.trial: Any = None
        trial = json.loads(run.trial.read_text(encoding="utf-8"))
        self.metric = str(trial["metric"])
        if ranks.is_first():
            import optuna

            optuna.logging.set_verbosity(optuna.logging.WARNING)
            storage = run.path.parent / str(trial["storage"])
            if storage.parent != run.path.parent or not is_contained(storage, run.path.parent) or "?" in storage.name:
                raise UserError(f"{run.trial}: storage = {trial['storage']!r}; must be a file beside the run. Who made this file?")
            pruner = build_pruner(trial["pruner"], startup_trials=trial["startup_trials"], warmup_steps=trial["warmup_steps"])
            study = optuna.load_study(study_name=str(trial["study"]), storage=f"sqlite:///{storage}", pruner=pruner)
            self.trial = optuna.trial.Trial(study, int(trial["id"]))
        self._is_over = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, and ask. The validation before the first step is alike for all trials and is not reported."""
        steps = int(pl_module.steps_done)  # type: ignore[arg-type]  # SteppingModule's
        if trainer.state.fn is not TrainerFn.FITTING or steps == 0:
            return
        if ranks.is_first():
            has_lost = self._has_lost(float(trainer.callback_metrics[self.metric]), steps)
            self._is_over = has_lost and steps < int(pl_module.recipe.steps)  # type: ignore[union-attr,arg-type]
            if self._is_over:
                self.run.pruned.write_text(json.dumps({"step": steps}) + "\n", encoding="utf-8")
        self._is_over = ranks.from_first(self._is_over)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Raises `Stopped`: not at the validation, which other callbacks have yet to write down."""
        if self._is_over:
            raise Stopped

    def _has_lost(self, value: float, steps: int) -> bool:
        self.trial.report(value, steps)
        return bool(self.trial.should_prune())
