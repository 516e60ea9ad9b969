"""What a frozen model says of examples: looked up, and computed where it is missing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from alignkit.batches import PackedBatch
from alignkit.caches.digests import example_digest
from alignkit.caches.store import Store
from alignkit.data.examples import EncodedExample
from alignkit.models.backbone import Backbone
from alignkit.ranks import gather, is_first, largest, reader, readers, wait_for_all

BLOCK = 1024
"""Examples that are cut into batches together: of nearly one length, so that little is padded."""
SEGMENT_SECONDS = 5.0
"""Of computing between two files: what an interruption can lose."""
SEGMENT_BYTES = 2**26
"""Values held back at most, however fast they come."""

ProgressBar = Callable[[int], AbstractContextManager[Callable[[int], None]]]
"""Given how many tokens there are, tells of those that are done."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """One kind of value, rows of which belong to the completions of an example."""

    name: str
    """Folder of the cache."""
    words: str
    """What a user calls it."""
    rows: Callable[[EncodedExample], int]
    """How many rows an example has."""
    compute: Callable[[Backbone, PackedBatch], Tensor]
    """The rows [n, ...] of a batch, example after example."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Filled:
    """Values of all examples that were asked for."""

    values: Mapping[int, Tensor]
    """Rows [n, ...] by the example's key."""
    reused: int
    """Examples whose values were there."""
    computed: int
    seconds: float
    """Of looking up, waiting and computing."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Filler:
    """How missing values are computed."""

    quantity: Quantity
    backbone: Backbone
    batches: Callable[[Sequence[EncodedExample]], Iterable[PackedBatch]]
    """Examples as batches on the backbone's device, in any order."""
    progress: ProgressBar

    def fill(self, store: Store, examples: Sequence[EncodedExample], waiting: str) -> Filled:
        """The values of all examples, whose keys are unique; those that the store lacks are computed and written, by one process at
        a time. `waiting` is said where another process is at it."""
        started = time.perf_counter()
        digests = {example.key: example_digest(example) for example in examples}
        assert len(digests) == len(examples), "keys of examples must be unique"
        by_digest = {digests[example.key]: example for example in examples}
        wanted = {digest: self.quantity.rows(example) for digest, example in by_digest.items()}
        values = store.read(wanted)
        missing = wanted.keys() - values.keys()
        if largest(len(missing)):
            # One process of a run holds the lock for all of its ranks, which compute shares.
            with store.locked(waiting) if is_first() else nullcontext():
                wait_for_all()
                values |= store.read({digest: wanted[digest] for digest in missing})
                missing = wanted.keys() - values.keys()
                values |= self.compute(store, {digest: by_digest[digest] for digest in share_of_all(missing)})
                wait_for_all()
                # What was written is read again: it is memory-mapped from then on, and verified.
                values |= store.read({digest: wanted[digest] for digest in missing - values.keys()})
                if lost := missing - values.keys():
                    store.writable = False
                    values |= self.compute(store, {digest: by_digest[digest] for digest in lost})
        computed = sum(digest in missing for digest in digests.values())
        return Filled(
            values={key: values[digest] for key, digest in digests.items()},
            reused=len(digests) - computed,
            computed=computed,
            seconds=time.perf_counter() - started,
        )

    @torch.no_grad()
    def compute(self, store: Store, missing: Mapping[bytes, EncodedExample]) -> dict[bytes, Tensor]:
        """Compute, and write every few seconds and at every end, so that an interruption loses little. Returns what was not written."""
        kept: dict[bytes, Tensor] = {}
        pending: dict[bytes, Tensor] = {}
        written, held = time.perf_counter(), 0
        # The longest come first: what does not fit into memory says so at once.
        ordered = sorted(missing.items(), key=lambda item: (-item[1].packed_tokens, item[0]))
        with self.progress(sum(example.packed_tokens for example in missing.values())) as advance:
            try:
                for begin in range(0, len(ordered), BLOCK):
                    block = {example.key: (digest, example) for digest, example in ordered[begin : begin + BLOCK]}
                    for batch in self.batches([example for _, example in block.values()]):
                        values = self.quantity.compute(self.backbone, batch).cpu()
                        of_batch = [block[key] for key in batch.example_keys]
                        parts = values.split([self.quantity.rows(example) for _, example in of_batch])
                        pending |= {digest: part for (digest, _), part in zip(of_batch, parts, strict=True)}
                        held += values.nbytes
                        if time.perf_counter() - written > SEGMENT_SECONDS or held > SEGMENT_BYTES:
                            kept |= {} if store.write(pending) else pending
                            pending, held, written = {}, 0, time.perf_counter()
                        advance(sum(example.packed_tokens for _, example in of_batch))
            finally:
                kept |= {} if store.write(pending) else pending
        return kept


def share_of_all(missing: Iterable[bytes]) -> list[bytes]:
    """Of the digests that any rank misses, those that this one computes."""
    return sorted({digest for of_rank in gather(sorted(missing)) for digest in of_rank})[reader() :: readers()]
