"""Ctrl-C, SIGTERM and their like: the running step is finished, then training stops and everything is saved."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self, final

from lightning import Callback, LightningModule, Trainer

from alignkit.errors import heard_signals, signal_exit_code
from alignkit.ranks import largest

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
WARNING = signal.SIGUSR1
"""What Slurm sends some time before it ends a job (`#SBATCH --signal=USR1@120`)."""


@final
class Stopped(Exception):  # noqa: N818  a wish of the user's, no failure
    """Training ends here, between two steps, because of a signal. The state is saved."""


@final
class Interruption(Callback):
    """Stops training between two steps: a handler that saved at once could save half an optimiser step.

    As a context manager it holds the signals' handlers, as a callback it saves the state and raises `Stopped`: Lightning's own
    `should_stop` would validate first, at a step where the run that is not stopped does not. Where a validation is due, that is
    finished too, with the checkpoint that belongs to it. Outside of training, and at the second
    signal, the process ends at once with the signal's exit code. Not by KeyboardInterrupt, of which Lightning makes exit code 1. Slurm's
    warning waits: for the first step where training has yet to begin, for nothing where it is over.
    """

    def __init__(self, save: Callable[[Trainer], None] | None = None) -> None:
        """`save`: saves the state; None saves none."""
        self.save = save
        self.received: signal.Signals | None = None
        """The signal that ended training."""
        self._training = False
        self._is_over = False
        self._is_saved = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._handle) for number in heard_signals(SIGNALS)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning has put a handler of its own before ours; it puts ours back when training ends.
        for number in heard_signals(SIGNALS):
            signal.signal(number, self._handle)
        self._training = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._is_saved:
            raise Stopped

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._agree()
        # Where a validation is due it comes first, as in a run that is not stopped.
        if self.received is not None and not validation_is_due(trainer, batch_idx):
            if self.save is not None:
                self.save(trainer)
            raise Stopped

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._training:
            self._agree()
        # Not here: other callbacks have yet to write what belongs to this validation, the last of them the checkpoint.
        self._is_saved = self.received is not None and self._training

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._training, self._is_over = False, True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._training, self._is_over = False, True

    def _agree(self) -> None:
        """A signal that one process has received stops all of them at the same step."""
        number = largest(self.received or 0)
        self.received = signal.Signals(number) if number else None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == WARNING and not self._training:
            self.received = self.received if self._is_over else WARNING
            return
        if not self._training or self.received is not None:
            raise SystemExit(signal_exit_code(signal.Signals(number)))
        self.received = signal.Signals(number)


def validation_is_due(trainer: Trainer, batch_idx: int) -> bool:
    """Whether one follows this step."""
    return trainer.val_check_batch is not None and (batch_idx + 1) % trainer.val_check_batch == 0
