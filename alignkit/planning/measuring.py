"""Seconds of a run on this machine, measured on shallow models of its width."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import final

import torch
from lightning.fabric.utilities import move_data_to_device

from alignkit.batches import PackedBatch
from alignkit.hardware import device_kind
from alignkit.planning.costs import Costs, costs_of
from alignkit.planning.load import Load
from alignkit.planning.narrowing import narrowed, with_layers
from alignkit.random_module import RunInputs, build_module, module_optimizer, precision_plugin
from alignkit.rehearsal import Rehearsal
from alignkit.settings import RunSettings

DEPTHS = (1, 4)
"""Layers of the models that are measured; of each the fastest pass but the first counts."""
REPEATS, ENOUGH_SECONDS = 3, 10.0
"""Measured passes at most, and when one must do."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast one rank computes, without what it waits for."""

    passes: Costs
    """Seconds of forward and backward passes."""
    update: float
    """Seconds of an update of all that the rank holds."""
    step: float
    """Seconds of all passes of a step, the mean over the first ones."""


def measure_pace(settings: RunSettings, inputs: RunInputs, load: Load, rehearsal: Rehearsal) -> Pace:
    """Train shallow models of the run's width on a micro-batch of the run, and extend to its depth and its steps."""
    sample = load.sample
    layers: int = inputs.config.num_hidden_layers
    low, high = (Shallow(settings, inputs, min(depth, layers), sample) for depth in DEPTHS)
    started = time.perf_counter()
    while len(low.passes) < 2 or (len(low.passes) <= REPEATS and time.perf_counter() - started < ENOUGH_SECONDS):
        for model in (low, high):  # in turn: what slows the machine for a while slows both
            model.run()
    passes = costs_of((low.layers, min(low.passes[1:])), (high.layers, min(high.passes[1:])), sample)
    return Pace(
        passes=passes,
        update=min(high.updates[1:]) / high.trained * rehearsal.trained / rehearsal.share.shards,
        step=passes.of_batches(layers, load.batches) / len(load.first),
    )


@final
class Shallow:
    """The run's model with its first layers only and random weights, trained for real."""

    def __init__(self, settings: RunSettings, inputs: RunInputs, layers: int, batch: PackedBatch) -> None:
        self.layers = layers
        self.passes: list[float] = []
        """Seconds of forward and backward passes, and below of clipping and the optimiser's step; the first of each is slow."""
        self.updates: list[float] = []
        self._device = device_kind(settings.hardware.accelerator)
        checkpointing = settings.model.checkpointing == "full"
        config = narrowed(with_layers(inputs.config, layers), settings.hardware.tensor_parallel)
        module = build_module(settings, inputs, config, checkpointing=checkpointing, mode=nullcontext())
        self._module, self._batch = module.to(self._device), move_data_to_device(batch, self._device)
        self._optimizer = module_optimizer(settings, module)
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self.trained = sum(parameter.numel() for parameter in self._parameters)
        self._clip = settings.optimizer.clip_norm or float("inf")
        self._plugin = precision_plugin(settings, self._device)

    def run(self) -> None:
        """One step of one micro-batch."""
        with self._plugin.forward_context():
            with clock(self.passes, self._device):
                self._module.evaluate(self._batch).sum().backward()
            with clock(self.updates, self._device):
                torch.nn.utils.clip_grad_norm_(self._parameters, self._clip)
                self._optimizer.step()
                self._optimizer.zero_grad()


@contextmanager
def clock(seconds: list[float], device: str) -> Iterator[None]:
    """Append the seconds of what is inside."""
    started = time.perf_counter()
    yield
    if device == "cuda":
        torch.cuda.synchronize()
    seconds.append(time.perf_counter() - started)
