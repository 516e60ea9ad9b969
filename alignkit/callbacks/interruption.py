"""Ctrl-C and SIGTERM: the running step is finished, then training stops and everything is saved."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any, final

from lightning import Callback, LightningModule, Trainer

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@final
class Interruption(Callback):
    """Stops training between two steps: a handler that saved at once could save half an optimiser step.

    `received` is the signal that ended training, or None. A second signal stops at once, without saving.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        def handle(number: int, frame: FrameType | None) -> None:
            if self.received is not None:
                raise KeyboardInterrupt
            self.received = signal.Signals(number)

        self._previous = {number: signal.signal(number, handle) for number in SIGNALS}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.received is not None:
            trainer.should_stop = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
