"""What a run will need, before it loads weights: peak memory by rehearsal without values, seconds by measuring shallow models."""

from __future__ import annotations

import copy
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import final

import torch
from lightning.fabric.utilities import move_data_to_device
from transformers import PretrainedConfig

from alignkit.batches import PackedBatch, StepBatch
from alignkit.data.collate import micro_batches
from alignkit.data.packing import LOOKING, Packing
from alignkit.data.steps import Steps
from alignkit.hardware import device_kind
from alignkit.random_module import RunInputs, build_module, module_optimizer, precision_plugin
from alignkit.rehearsal import ACTIVATIONS, Packer, Rehearsal
from alignkit.settings import RunSettings

PROCESS = "process and libraries"
GAPS = "gaps between tensors"
GAP_SHARE = 0.25
"""Of the bytes alive, lost in a heap that keeps freed blocks: 0.22 to 0.41 with GPT-2, 0.12 to 0.27 with SmolLM2-135M."""
FIRST_STEPS = 10
"""Optimiser steps that are laid out to count and to measure."""
DEPTHS = (1, 4)
"""Layers of the models that are measured; of each the fastest pass but the first counts."""
REPEATS, ENOUGH_SECONDS = 3, 10.0
"""Measured passes at most, and when one must do."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Seconds:
    """Where the time of a run goes."""

    step: float
    """One optimiser step, the mean over the run's first ones."""
    validation: float
    """All validations."""
    looking: float
    """Log-probs of the reference or states of a frozen trunk, before training, unless they are found in the cache."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What a run will need."""

    device: str
    """`cpu`: memory is that of the process; `cuda`: memory is that of the device's tensors."""
    parts: Mapping[str, int]
    """Bytes by what they are for, at the moment of the peak."""
    bytes_per_token: float
    """What one more position of the largest micro-batch costs."""
    packing: Packing
    micro_batches: float
    """A step, the mean over the run's first ones; so for the next two."""
    positions: float
    """Computed in a step, padding included."""
    filled: float
    """Positions that hold a token."""
    largest: int
    """Positions of the run's largest micro-batch."""
    longest: int
    """Positions of the largest example, which no smaller `batch.tokens` cuts."""
    seconds: Seconds
    steps: int
    """Optimiser steps of the run."""

    @property
    def peak_bytes(self) -> int:
        return sum(self.parts.values())

    @property
    def seconds_per_step(self) -> float:
        return self.seconds.step

    @property
    def run_seconds(self) -> float:
        """Of the whole run, without loading, samples and saving."""
        return self.steps * self.seconds.step + self.seconds.validation + self.seconds.looking

    def largest_tokens_that_fit(self, memory_bytes: int) -> int:
        """The largest `batch.tokens` whose peak is at most `memory_bytes`; 0 where the longest example does not fit."""
        tokens = self.largest + int((memory_bytes - self.peak_bytes) // max(1.0, self.bytes_per_token))
        return tokens if tokens >= self.longest else 0


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """What the run's steps are made of."""

    first: list[StepBatch]
    """The first steps."""
    heaviest: list[PackedBatch]
    """One or two micro-batches of one step, in their order, the run's largest among them."""
    collate_seconds: float
    """To lay out a step."""


def forecast(settings: RunSettings, inputs: RunInputs, pack: Packer) -> Forecast:
    """Peak memory and seconds of a run, in seconds; `pack` is `assembly.plan_packing`. Raises UserError as assembly would."""
    device = device_kind(settings.hardware.accelerator)
    process = resident_bytes()
    checkpointing = settings.model.checkpointing == "full"
    rehearsal = Rehearsal(settings, inputs, pack, checkpointing=checkpointing)
    load = read_load(run_steps(settings, inputs, rehearsal.packing))
    parts = measure_parts(settings, inputs, rehearsal, load)
    widest = max(load.heaviest, key=lambda batch: batch.input_ids.numel())
    largest = widest.input_ids.numel()
    once, twice = (sum(rehearsal.step_peak(batch, first=True).values()) for batch in (widest, doubled(widest, inputs, rehearsal.packing)))
    batches = [batch for step in load.first for batch in step.micro_batches]
    return Forecast(
        device=device,
        parts=parts if device == "cuda" else {PROCESS: process, **parts},
        bytes_per_token=(twice - once) / largest * (1 + gap_share(device)),
        packing=rehearsal.packing,
        micro_batches=len(batches) / len(load.first),
        positions=sum(batch.input_ids.numel() for batch in batches) / len(load.first),
        filled=sum(step.filled for step in load.first) / len(load.first),
        largest=largest,
        longest=max(example.packed_tokens for example in inputs.prepared.train),
        seconds=measure_seconds(settings, inputs, load, rehearsal),
        steps=settings.steps,
    )


def peak_memory(settings: RunSettings, inputs: RunInputs, pack: Packer, *, checkpointing: bool) -> dict[str, int]:
    """Bytes, by what they are for, that a run adds to its process (to the device, on a GPU) at its peak. Raises UserError."""
    rehearsal = Rehearsal(settings, inputs, pack, checkpointing=checkpointing)
    return measure_parts(settings, inputs, rehearsal, read_load(run_steps(settings, inputs, rehearsal.packing)))


def needs_checkpointing(settings: RunSettings, inputs: RunInputs, pack: Packer, available_bytes: int) -> bool:
    """Whether a run fits into `available_bytes` only if the activations of its layers are computed again (or not even then)."""
    return sum(peak_memory(settings, inputs, pack, checkpointing=False).values()) > available_bytes


def run_steps(settings: RunSettings, inputs: RunInputs, packing: Packing) -> Steps:
    """The steps that the run will take."""
    return Steps(inputs.prepared.train, pairs=settings.batch.pairs, steps=settings.steps, seed=settings.seed, packing=packing)


def read_load(steps: Steps) -> Load:
    """Lay out the first steps, and those that hold the run's longest examples."""
    visited = range(min(steps.steps, steps.steps_per_epoch))
    longest = sorted(visited, key=lambda step: -max(steps.examples[index].packed_tokens for index in steps.global_batch(step)))
    started = time.perf_counter()
    first = [steps[step] for step in visited[:FIRST_STEPS]]
    seconds = (time.perf_counter() - started) / len(first)
    candidates = [*first, *(steps[step] for step in longest[:2])]
    step = max(candidates, key=lambda step: max(batch.input_ids.numel() for batch in step.micro_batches))
    # From the second micro-batch on, gradients are there while activations grow.
    rest = sorted(step.micro_batches[1:], key=lambda batch: -batch.input_ids.numel())
    return Load(first=first, heaviest=[step.micro_batches[0], *rest[:1]], collate_seconds=seconds)


def measure_parts(settings: RunSettings, inputs: RunInputs, rehearsal: Rehearsal, load: Load) -> dict[str, int]:
    """The peak of training, or of what comes before it where that is higher."""
    first, *later = load.heaviest
    peaks: list[Mapping[str, int]] = []
    frozen, deep = settings.model.train == "heads", inputs.config.num_hidden_layers > 2 * LOOKING
    if looks_up(settings, inputs) and (frozen or not deep or rehearsal.checkpointing):
        # Before there is an optimizer. A deep model's activations need more.
        peaks.append(rehearsal.look_peak(first_looked_at(inputs, rehearsal.packing)))
    peaks.append(rehearsal.step_peak(first, first=True))
    for batch in later:
        # Later micro-batches find gradients, and may be so much smaller that this does not matter.
        smaller = 1 - batch.input_ids.numel() / first.input_ids.numel()
        if 4 * rehearsal.trained > smaller * peaks[-1].get(ACTIVATIONS, 0):
            peaks.append(rehearsal.step_peak(batch, first=False))
    parts = {kind: count for kind, count in max(peaks, key=lambda peak: sum(peak.values())).items() if count}
    share = gap_share(device_kind(settings.hardware.accelerator))
    return {**parts, GAPS: int(share * sum(parts.values()))} if share else parts


def looks_up(settings: RunSettings, inputs: RunInputs) -> bool:
    """Whether something is computed for all examples before training."""
    return settings.model.train == "heads" or (inputs.objective.needs_reference and settings.reference.source == "cache")


def first_looked_at(inputs: RunInputs, packing: Packing) -> PackedBatch:
    """The first batch of what is computed before training: the longest examples."""
    examples = sorted(inputs.prepared.train, key=lambda example: -example.packed_tokens)
    most = LOOKING * packing.tokens
    count = 1 + sum(total <= most for total in accumulate(example.packed_tokens for example in examples))
    return micro_batches(examples[:count], replace(packing, tokens=most))[0]


def doubled(batch: PackedBatch, inputs: RunInputs, packing: Packing) -> PackedBatch:
    """A micro-batch with every example twice."""
    by_key = {example.key: example for example in inputs.prepared.train}
    examples = [by_key[key] for key in batch.example_keys] * 2
    return micro_batches(examples, replace(packing, tokens=2 * batch.input_ids.numel()))[0]


def gap_share(device: str) -> float:
    """Of the bytes alive, what the allocator adds: a GPU's peak is counted in tensors."""
    return 0.0 if device == "cuda" else GAP_SHARE


def measure_seconds(settings: RunSettings, inputs: RunInputs, load: Load, rehearsal: Rehearsal) -> Seconds:
    """Train shallow models of the run's width on a micro-batch of the run, and extend to its depth and its steps: a layer costs
    seconds a position, what stands around the layers costs seconds a completion token."""
    batches = sorted((batch for step in load.first for batch in step.micro_batches), key=lambda batch: batch.input_ids.numel())
    sample = batches[len(batches) // 2]
    layers: int = inputs.config.num_hidden_layers
    low, high = (Shallow(settings, inputs, min(depth, layers), sample) for depth in DEPTHS)
    started = time.perf_counter()
    while len(low.passes) < 2 or (len(low.passes) <= REPEATS and time.perf_counter() - started < ENOUGH_SECONDS):
        for model in (low, high):  # in turn: what slows the machine for a while slows both
            model.run()
    layer = max(0.0, min(high.passes[1:]) - min(low.passes[1:])) / max(1, high.layers - low.layers)
    around = max(0.0, min(low.passes[1:]) - low.layers * layer)

    def extend(positions: int, tokens: int) -> float:
        return layer * layers * positions / sample.input_ids.numel() + around * tokens / sample.completion_tokens

    steps = extend(sum(batch.input_ids.numel() for batch in batches), sum(batch.completion_tokens for batch in batches))
    examples = inputs.prepared.validation
    forward = 1 / 4 if settings.model.checkpointing == "full" else 1 / 3  # of a training pass
    held_out = forward * extend(
        sum(example.packed_tokens for example in examples), sum(len(ids) for example in examples for ids in example.completion_ids)
    )
    validations = 2 + (settings.steps - 1) // settings.validation.every
    seen = min(settings.steps * settings.batch.pairs, len(inputs.prepared.train)) / len(examples) + 1
    return Seconds(
        step=steps / len(load.first) + min(high.updates[1:]) / high.trained * rehearsal.trained + load.collate_seconds,
        validation=validations * held_out,
        looking=seen * held_out if looks_up(settings, inputs) else 0.0,
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
        module = build_module(settings, inputs, with_layers(inputs.config, layers), checkpointing=checkpointing, mode=nullcontext())
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


def with_layers(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    """The same model with its first layers only."""
    shallow = copy.deepcopy(config)
    shallow.num_hidden_layers = layers
    if getattr(shallow, "layer_types", None):
        shallow.layer_types = shallow.layer_types[:layers]
    return shallow


@contextmanager
def clock(seconds: list[float], device: str) -> Iterator[None]:
    """Append the seconds of what is inside."""
    started = time.perf_counter()
    yield
    if device == "cuda":
        torch.cuda.synchronize()
    seconds.append(time.perf_counter() - started)


def resident_bytes() -> int:
    """Memory of this process, now where the system tells, else at its highest so far."""
    if (file := Path("/proc/self/statm")).exists():
        return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
