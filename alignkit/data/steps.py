"""The order of training as a function: which examples make up step k depends on the seed, the epoch and k, on nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import final

import torch
from torch.utils.data import Dataset

from alignkit.batches import Counts, PackedBatch, StepBatch
from alignkit.data.collate import cut_batches, micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.measured import longest_branch
from alignkit.data.packing import Packing
from alignkit.errors import UserError


@final
class Steps(Dataset[StepBatch]):
    """Optimiser steps 0, 1, 2, ... over shuffled epochs of the examples.

    An epoch is a permutation of all examples cut into batches of `pairs`; its last batch holds what is left. One process,
    several ranks and a resumed run see the same global batches, and step k needs no step before it.

    With `mismatched` each step brings its examples once more, each prompt with the completions of the next one.

    Raises:
        UserError: when there is no next one, because batches hold a single example.
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
        mismatched: bool = False,
    ) -> None:
        self.examples = examples
        self.pairs = min(pairs, len(examples))
        self.steps = steps
        self.seed = seed
        self.packing = packing
        self.rank = rank
        self.ranks = ranks
        self.mismatched = mismatched
        self.spare = 0
        """Batches after those of the steps, for a run that leaves some out."""
        if mismatched and self.pairs < 2:
            raise UserError(
                f"batch.pairs = {pairs}, and {len(examples)} examples to train on: the KL baseline joins each prompt to the completions of "
                "another example of its step, so a step needs 2. Try batch.pairs=16, on as many examples."
            )

    @cached_property
    def _longest(self) -> int:
        """Tokens of the longest prompt with one completion."""
        return longest_branch(self.examples)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.examples) // self.pairs)

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> StepBatch:
        if not 0 <= step < self.steps + self.spare:
            raise IndexError(step)
        chosen = [self.examples[index] for index in self.global_batch(step)]
        batches = share_of(chosen, self.packing, self.rank, self.ranks)
        return StepBatch(
            micro_batches=batches,
            global_counts=count_by_source(chosen),
            tokens=sum(example.packed_tokens for example in chosen),
            filled=sum(int((batch.example_ids >= 0).sum()) for batch in batches if batch.examples),
            mismatched=share_of(self.mismatched_examples(step), self.packing, self.rank, self.ranks),
            ranks=self.ranks,
        )

    def global_batch(self, step: int) -> list[int]:
        """Positions of the examples in the global batch of one step, over all ranks."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        chosen = _permutation(len(self.examples), self.seed, epoch)[batch * self.pairs : (batch + 1) * self.pairs]
        indices: list[int] = chosen.tolist()
        return indices

    def mismatched_examples(self, step: int) -> list[EncodedExample]:
        """Example i of the global batch of one step with the completions of example i + 1, the last with those of the first; over all
        ranks. None of a single example, and none unless they were asked for.

        Their keys are below zero and a function of the step and i: no example of the data has them, nor of another step.
        """
        chosen = [self.examples[index] for index in self.global_batch(step)]
        if not self.mismatched or len(chosen) < 2:
            return []
        first = -1 - step * self.pairs
        return [
            mismatch(example, other, key=first - place, longest=self._longest)
            for place, (example, other) in enumerate(zip(chosen, chosen[1:] + chosen[:1], strict=True))
        ]


def share_of(examples: Sequence[EncodedExample], packing: Packing, rank: int, ranks: int) -> list[PackedBatch]:
    """One rank's share of a global batch as micro-batches: as many on each rank, of which the last ones may be empty.

    Examples are dealt out by length, so that all ranks have about as much to do.
    """
    shares = shares_of(examples, ranks)
    most = max(len(cut_batches(share, packing)) for share in shares) if ranks > 1 else 0
    return micro_batches(shares[rank], packing, at_least=most)


def shares_of(examples: Sequence[EncodedExample], ranks: int) -> list[list[EncodedExample]]:
    """The examples of each rank, in their order; the longest ones are dealt out first."""
    if ranks == 1:
        return [list(examples)]
    order = sorted(range(len(examples)), key=lambda place: -examples[place].packed_tokens)
    return [[examples[place] for place in sorted(order[rank::ranks])] for rank in range(ranks)]


def mismatch(example: EncodedExample, other: EncodedExample, *, key: int, longest: int) -> EncodedExample:
    """A prompt with the completions of another example. The prompt's oldest tokens go where it would be over `longest` tokens.

    What is known of the completions was said under their own prompt, and is left out.
    """
    room = longest - max(map(len, other.completion_ids))
    return EncodedExample(key=key, prompt_ids=example.prompt_ids[-room:], completion_ids=other.completion_ids, source=example.source)


def count_by_source(examples: Sequence[EncodedExample]) -> dict[str, Counts]:
    """Examples, completions and completion tokens of each part of a mixture, in the order of their names."""
    by_source: defaultdict[str, list[EncodedExample]] = defaultdict(list)
    for example in examples:
        by_source[example.source].append(example)
    return {
        source: Counts(
            examples=len(of_source),
            completions=sum(len(example.completion_ids) for example in of_source),
            chosen_tokens=sum(len(example.completion_ids[0]) for example in of_source),
        )
        for source, of_source in sorted(by_source.items())
    }


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int, epoch: int) -> torch.Tensor:
    """[count] int32: millions of them as a list of Python numbers would take ten times the memory."""
    # One generator an epoch; the multiplier keeps (seed 0, epoch 1) and (seed 1, epoch 0) apart.
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(count, generator=generator).to(torch.int32)
