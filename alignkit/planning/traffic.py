"""What ranks send each other in an optimiser step, in bytes, and how long that takes at best.

A ring of N ranks passes (N - 1) / N of a gathering or a scattering through each rank's link, and twice that of a sum
(Patarasuk & Yuan 2009, doi:10.1016/j.jpdc.2008.09.002). Where the ring leaves a node it passes through the node's network, whose links
work together: as NCCL's bus bandwidth counts it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import final

from alignkit.planning.cutting import CutModel

GATHER, SCATTER, SUM = "all-gather", "reduce-scatter", "all-reduce"
PASSES = {GATHER: 1, SCATTER: 1, SUM: 2}
"""Times that what is sent goes around the ring."""
BUCKET = 25 * 2**20
"""Bytes of gradients that DDP sums in one call, torch's default."""
HOP_SECONDS = 3e-6
"""Assumed, of a rank in a ring."""
REACHED = 0.8
"""Assumed, of a link's bandwidth."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """One kind of ring in one optimiser step."""

    ranks: int
    """Of each ring."""
    bytes: Counter[str] = field(default_factory=Counter)
    """By collective: the sizes of what is gathered, scattered or summed, whole."""
    calls: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, sizes: Iterable[int], times: float = 1) -> None:
        """Calls of a kind, one for each size that is not 0."""
        sent = [size for size in sizes if size]
        self.bytes[kind] += round(times * sum(sent))
        self.calls[kind] += round(times * len(sent))

    def passed(self, kind: str) -> int:
        """Bytes that each rank receives, and sends as many."""
        return self.bytes[kind] * PASSES[kind] * (self.ranks - 1) // self.ranks

    def seconds(self, gb_per_second: float) -> float:
        """Of all of it, one after the other, through links of so many 10^9 bytes a second."""
        through = sum(self.passed(kind) for kind in self.bytes) / (REACHED * gb_per_second * 1e9)
        return through + HOP_SECONDS * sum(count * PASSES[kind] * (self.ranks - 1) for kind, count in self.calls.items())


def fsdp_traffic(policy: CutModel | None, references: Iterable[CutModel], *, around: int, micro_batches: float) -> Traffic | None:
    """FSDP in a step.

    Args:
        policy: what is trained; None where no step computes it.
        references: what is computed without gradient in each micro-batch; the policy itself is one where its adapters are switched off.
        around: bytes of the gradients that are not cut (heads), summed once a step.
        micro_batches: of the rank that has most: all gather as often.
    """
    cut = [*([policy] if policy else []), *references]
    if not cut:
        return None
    traffic = Traffic(ranks=cut[0].ranks)
    if policy is not None:
        layers = [group.gathered for group in policy.layers]
        trained = policy.scattered > 0
        traffic.add(GATHER, [policy.root.gathered, *layers], micro_batches)
        if trained:
            traffic.add(GATHER, layers, micro_batches)
            traffic.add(SCATTER, (group.scattered for group in policy.groups), micro_batches)
    for model in references:
        # The root once for the trunk, and once for the vocabulary: without gradient nothing is kept.
        traffic.add(GATHER, [model.root.gathered, *(group.gathered for group in model.layers), model.root.gathered], micro_batches)
    traffic.add(SUM, [around])
    return traffic


def ddp_traffic(ranks: int, trained_bytes: int) -> Traffic:
    """DDP in a step: the gradients are summed once, after the last micro-batch."""
    traffic = Traffic(ranks=ranks)
    whole, rest = divmod(trained_bytes, BUCKET)
    traffic.add(SUM, [*whole * [BUCKET], rest])
    return traffic


def tensor_parallel_traffic(ranks: int, *, forward: Counter[int], backward: Counter[int], micro_batches: float) -> Traffic:
    """Tensor parallelism in a step: what each product of a pair leaves is summed over the ranks.

    Args:
        ranks: that compute each product together.
        forward: sizes of the sums of a micro-batch, bytes, with how often each comes: one after each product that is cut by rows.
        backward: the same, one before each product that is cut by columns.
        micro_batches: of a step.
    """
    traffic = Traffic(ranks=ranks)
    for size, count in (forward + backward).items():
        traffic.add(SUM, [size], count * micro_batches)
    return traffic
