"""What a run's steps are made of, on the rank that has most of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import final

from alignkit.batches import PackedBatch, StepBatch
from alignkit.data.collate import micro_batches
from alignkit.data.measured import by_length, packed_tokens, with_keys
from alignkit.data.packing import LOOKING, Packing
from alignkit.data.steps import Steps
from alignkit.random_module import RunInputs
from alignkit.settings import RunSettings

FIRST_STEPS = 10
"""Optimiser steps that are laid out to count and to measure."""


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

    @property
    def batches(self) -> list[PackedBatch]:
        """Of all the first steps."""
        return [batch for step in self.first for batch in step.micro_batches]

    @property
    def sample(self) -> PackedBatch:
        """One of middle size."""
        sizes = sorted((batch for batch in self.batches if batch.examples), key=lambda batch: batch.input_ids.numel())
        return sizes[len(sizes) // 2]


def run_steps(settings: RunSettings, inputs: RunInputs, packing: Packing) -> Steps:
    """The steps that the first rank will take, who is dealt the longest examples."""
    return Steps(
        inputs.prepared.train,
        pairs=settings.batch.pairs,
        steps=settings.steps,
        seed=settings.seed,
        packing=packing,
        ranks=settings.hardware.readers,
    )


def read_load(steps: Steps) -> Load:
    """Lay out the first steps, and those that hold the run's longest examples."""
    visited = range(min(steps.steps, steps.steps_per_epoch))
    longest = sorted(visited, key=lambda step: -max(packed_tokens(steps.examples, steps.global_batch(step))))
    started = time.perf_counter()
    first = [steps[step] for step in visited[:FIRST_STEPS]]
    seconds = (time.perf_counter() - started) / len(first)
    candidates = [*first, *(steps[step] for step in longest[:2])]
    step = max(candidates, key=lambda step: max(batch.input_ids.numel() for batch in step.micro_batches))
    # From the second micro-batch on, gradients are there while activations grow.
    rest = sorted(step.micro_batches[1:], key=lambda batch: -batch.input_ids.numel())
    return Load(first=first, heaviest=[step.micro_batches[0], *rest[:1]], collate_seconds=seconds)


def first_looked_at(inputs: RunInputs, packing: Packing) -> PackedBatch:
    """The first batch of what is computed before training: the longest examples."""
    most = LOOKING * packing.tokens
    examples = []
    tokens = 0
    for example in by_length(inputs.prepared.train):
        examples.append(example)
        tokens += example.packed_tokens
        if tokens > most:
            break
    return micro_batches(examples, replace(packing, tokens=most))[0]


def doubled(batch: PackedBatch, inputs: RunInputs, packing: Packing) -> PackedBatch:
    """A micro-batch with every example twice."""
    examples = with_keys(inputs.prepared.train, batch.example_keys) * 2
    return micro_batches(examples, replace(packing, tokens=2 * batch.input_ids.numel()))[0]
