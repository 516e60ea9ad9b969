"""Random states in checkpoints: Lightning saves none, so that a resumed run would draw other numbers."""

from __future__ import annotations

import random
from typing import Any, final

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

from alignkit.ranks import gather, reader, readers


@final
class RandomStates(Callback):
    """Torch's, NumPy's and Python's generators as they were when a checkpoint was written, put back when training goes on from it.

    What samples are drawn with is a function of seed and step and needs none of these; dropout in heads and adapters does. Each rank has
    its own; where a run goes on with other ranks they begin anew.
    """

    def __init__(self) -> None:
        self._saved: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"ranks": gather(self._own())}

    def _own(self) -> dict[str, Any]:
        kind, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)
        version, words, normal = random.getstate()
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy": [str(kind), np.asarray(keys).tolist(), int(place), int(has_gauss), float(gauss)],
            "python": [version, list(words), normal],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        states = state_dict["ranks"]
        self._saved = states[reader()] if len(states) == readers() else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._saved is None:
            return
        torch.set_rng_state(self._saved["torch"].cpu())
        if torch.cuda.is_available() and self._saved["cuda"]:
            torch.cuda.set_rng_state_all([state.cpu() for state in self._saved["cuda"]])
        kind, keys, *rest = self._saved["numpy"]
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
        version, words, normal = self._saved["python"]
        random.setstate((version, tuple(words), normal))
