"""The order of training as a function: which examples make up step k depends on the seed, the epoch and k, on nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import final

import torch
from torch.utils.data import Dataset

from alignkit.batches import StepBatch
from alignkit.data.collate import micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing


@final
class Steps(Dataset[StepBatch]):
    """Optimiser steps 0, 1, 2, ... over shuffled epochs of the examples.

    An epoch is a permutation of all examples cut into batches of `pairs`; its last batch holds what is left. One process,
    several ranks and a resumed run see the same global batches, and step k needs no step before it.
    """

    def __init__(
        self,
        examples: Sequence[EncodedExample],
        *,
        pairs: int,
        steps: int,
        seed: int,
        packing: Packing,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.examples = examples
        self.pairs = min(pairs, len(examples))
        self.steps = steps
        self.seed = seed
        self.packing = packing
        self.rank = rank
        self.ranks = ranks

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.examples) // self.pairs)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> StepBatch:
        if not 0 <= step < self.steps:
            raise IndexError(step)
        chosen = [self.examples[index] for index in self.global_batch(step)]
        mine = chosen[self.rank :: self.ranks]
        batches = micro_batches(mine, self.packing)
        return StepBatch(
            micro_batches=batches,
            global_examples=len(chosen),
            global_tokens=sum(len(ids) for example in chosen for ids in example.completion_ids),
            tokens=sum(example.packed_tokens for example in mine),
            filled=sum(int((batch.example_ids >= 0).sum()) for batch in batches),
        )

    def global_batch(self, step: int) -> list[int]:
        """Positions of the examples in the global batch of one step, over all ranks."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        return _permutation(len(self.examples), self.seed, epoch)[batch * self.pairs : (batch + 1) * self.pairs]


@lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> list[int]:
    # One generator an epoch; the multiplier keeps (seed 0, epoch 1) and (seed 1, epoch 0) apart.
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    permutation: list[int] = torch.randperm(count, generator=generator).tolist()
    return permutation
