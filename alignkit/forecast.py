"""What a run will need, before it loads weights: peak memory by rehearsal without values, seconds by measuring shallow models here or by
counting what a device that is not here would compute, and what its ranks send each other."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from alignkit.data.measured import longest_packed, too_many_to_look_up
from alignkit.data.packing import LOOKING, Packing
from alignkit.hardware import device_kind
from alignkit.planning.communication import Communication, measure_communication
from alignkit.planning.counting import estimate_pace
from alignkit.planning.devices import DEVICES, HERE, PlanSettings
from alignkit.planning.gathering import gathered_parts
from alignkit.planning.ledger import ACTIVATIONS
from alignkit.planning.load import Load, doubled, first_looked_at, read_load, run_steps
from alignkit.planning.measuring import Pace, measure_pace
from alignkit.planning.narrowing import check_narrow
from alignkit.random_module import RunInputs
from alignkit.rehearsal import Packer, Rehearsal, Share
from alignkit.settings import HardwareSettings, RunSettings

PROCESS = "process and libraries"
GAPS = "gaps between tensors"
GAP_SHARE = 0.25
"""Of the bytes alive, lost in a heap that keeps freed blocks: 0.22 to 0.41 with GPT-2, 0.12 to 0.27 with SmolLM2-135M."""


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
    """What a run will need; of several ranks the one that has most to do."""

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
    tokens: float
    """Of a step over all ranks, which throughput counts."""
    largest: int
    """Positions of the run's largest micro-batch."""
    longest: int
    """Positions of the largest example, which no smaller `batch.tokens` cuts."""
    seconds: Seconds
    communication: Communication
    """Nothing where there is one rank."""
    computing: float
    """Seconds of passes and update in a step, without what ranks wait for."""
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


def forecast(settings: RunSettings, inputs: RunInputs, pack: Packer, own: PlanSettings | None = None) -> Forecast:
    """Peak memory and seconds of a run, in seconds; `pack` is `assembly.plan_packing`. Raises UserError as assembly would."""
    own = own or PlanSettings()
    kind = planned_kind(settings, own)
    check_narrow(settings.model.path, inputs.config, settings.hardware.tensor_parallel)
    process = resident_bytes()
    checkpointing = settings.model.checkpointing == "full"
    share = share_of(settings.hardware, None if own.device == HERE else kind)
    rehearsal = Rehearsal(settings, inputs, pack, checkpointing=checkpointing, share=share)
    load = read_load(run_steps(settings, inputs, rehearsal.packing))
    parts = measure_parts(settings, inputs, rehearsal, load, gap_share(kind))
    widest = max(load.heaviest, key=lambda batch: batch.input_ids.numel())
    largest = widest.input_ids.numel()
    alone = len(load.heaviest) == 1  # gradients of earlier micro-batches are there otherwise
    sizes = (widest, doubled(widest, inputs, rehearsal.packing))
    once, twice = (sum(rehearsal.step_peak(batch, first=alone).values()) for batch in sizes)
    if own.device == HERE:
        pace = measure_pace(settings, inputs, load, rehearsal)
    else:
        pace = estimate_pace(DEVICES[own.device], own.utilisation, settings, inputs, load, pack, rehearsal)
    micro_batches = len(load.batches) / len(load.first)
    communication = measure_communication(settings.hardware, own, kind, rehearsal, load)
    computing = pace.step + pace.update + (load.collate_seconds if own.device == HERE else 0.0)
    return Forecast(
        device=kind,
        parts=parts if kind == "cuda" else {PROCESS: process, **parts},
        bytes_per_token=(twice - once) / largest * (1 + gap_share(kind)),
        packing=rehearsal.packing,
        micro_batches=micro_batches,
        positions=sum(batch.input_ids.numel() for batch in load.batches) / len(load.first),
        filled=sum(step.filled for step in load.first) / len(load.first),
        tokens=sum(step.tokens for step in load.first) / len(load.first),
        largest=largest,
        longest=longest_packed(inputs.prepared.train),
        seconds=all_seconds(settings, inputs, pace, communication.step_seconds(computing)),
        communication=communication,
        computing=computing,
        steps=settings.steps,
    )


def peak_memory(settings: RunSettings, inputs: RunInputs, pack: Packer, *, checkpointing: bool) -> dict[str, int]:
    """Bytes, by what they are for, that a run adds to each of its processes (to its device, on a GPU) at its peak. Raises UserError."""
    rehearsal = Rehearsal(settings, inputs, pack, checkpointing=checkpointing, share=share_of(settings.hardware))
    load = read_load(run_steps(settings, inputs, rehearsal.packing))
    return measure_parts(settings, inputs, rehearsal, load, gap_share(device_kind(settings.hardware.accelerator)))


def needs_checkpointing(settings: RunSettings, inputs: RunInputs, pack: Packer, available_bytes: int) -> bool:
    """Whether a run fits into `available_bytes` only if the activations of its layers are computed again (or not even then)."""
    return sum(peak_memory(settings, inputs, pack, checkpointing=False).values()) > available_bytes


def share_of(hardware: HardwareSettings, device: str | None = None) -> Share:
    """What one rank holds. With tensor parallelism the groups that share the examples cut what each of them holds, too."""
    cuts = hardware.strategy in ("fsdp", "tensor_parallel")
    return Share(shards=hardware.readers if cuts else 1, tensor_parallel=hardware.tensor_parallel, device=device)


def planned_kind(settings: RunSettings, own: PlanSettings) -> str:
    """`cpu` or `cuda`: what the run will compute on."""
    return device_kind(settings.hardware.accelerator) if own.device == HERE else "cuda"


def measure_parts(settings: RunSettings, inputs: RunInputs, rehearsal: Rehearsal, load: Load, gaps: float) -> dict[str, int]:
    """The peak of training, or of what comes before it where that is higher; `gaps` as `gap_share` has it."""
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
    parts |= gathered_parts(rehearsal)
    return {**parts, GAPS: int(gaps * sum(parts.values()))} if gaps else parts


def looks_up(settings: RunSettings, inputs: RunInputs) -> bool:
    """Whether something is computed for all examples before training."""
    wanted = settings.model.train == "heads" or (inputs.objective.needs_reference and settings.reference.source == "cache")
    return wanted and not too_many_to_look_up(settings)


def gap_share(device: str) -> float:
    """Of the bytes alive, what the allocator adds: a GPU's peak is counted in tensors."""
    return 0.0 if device == "cuda" else GAP_SHARE


def all_seconds(settings: RunSettings, inputs: RunInputs, pace: Pace, step: float) -> Seconds:
    """Of a run whose steps take `step` seconds. What is only looked at is dealt out to all ranks, and takes a part of a training pass."""
    examples = inputs.prepared.validation
    forward = 1 / 4 if settings.model.checkpointing == "full" else 1 / 3
    positions = sum(example.packed_tokens for example in examples)
    tokens = sum(len(ids) for example in examples for ids in example.completion_ids)
    held_out = forward * pace.passes.of(inputs.config.num_hidden_layers, positions, tokens) / settings.hardware.readers
    validations = 2 + (settings.steps - 1) // settings.validation.every
    seen = min(settings.steps * settings.batch.pairs, len(inputs.prepared.train)) / len(examples) + 1
    return Seconds(step=step, validation=validations * held_out, looking=seen * held_out if looks_up(settings, inputs) else 0.0)


def resident_bytes() -> int:
    """Memory of this process, now where the system tells, else at its highest so far."""
    if (file := Path("/proc/self/statm")).exists():
        return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
