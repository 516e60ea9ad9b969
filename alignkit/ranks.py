"""The processes that train together: who this one is, and what all of them know. One process alone needs nothing of it.

Processes may hold one model together (tensor parallel): then they share the same examples and are one reader of the data. What is summed
and gathered here is of readers, each once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, final

import torch
import torch.distributed
from torch import Tensor

T = TypeVar("T")
PATIENCE = timedelta(days=1)
"""For processes that wait while another one writes or computes what it alone knows. One that has died is noticed all the same: it closes
its connections."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class _Groups:
    """How the processes that are together talk about everything but gradients and weights: on the CPU, and patiently."""

    everyone: torch.distributed.ProcessGroup
    readers: torch.distributed.ProcessGroup
    """One process of each reader, this one among them."""
    holders: int
    """Processes that hold one model together."""


_groups: _Groups | None = None


@contextmanager
def joined(*, processes: int, holders: int, backend: str, timeout: float) -> Iterator[None]:
    """Meet the other processes, unless they have met; part at the end from whom was met here.

    Args:
        processes: of all nodes. One is alone and meets nobody.
        holders: processes that hold one model together; neighbours do.
        backend: `nccl` or `gloo`, of gradients and weights.
        timeout: seconds that a process waits for gradients or weights of another one.
    """
    global _groups
    if processes == 1 or _groups is not None:
        yield
        return
    mine = not torch.distributed.is_initialized()
    if mine:
        torch.distributed.init_process_group(backend, timeout=timedelta(seconds=timeout), rank=rank(), world_size=processes)
    try:
        everyone = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
        lanes = [list(range(lane, processes, holders)) for lane in range(holders)]
        of_readers = [torch.distributed.new_group(lane, backend="gloo", timeout=PATIENCE) for lane in lanes]
        _groups = _Groups(everyone=everyone, readers=of_readers[rank() % holders], holders=holders)
        yield
    finally:
        _groups = None
        if mine:
            torch.distributed.destroy_process_group()


def together() -> bool:
    """Whether several processes train here and can be asked."""
    return torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1


def ranks() -> int:
    """Processes that train together."""
    return torch.distributed.get_world_size() if together() else 1


def rank() -> int:
    """Number of this process, from 0; known from the launcher's environment before the processes have met."""
    if together():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) or 0)


def is_first() -> bool:
    """Whether this process writes files and speaks to the user."""
    return rank() == 0


def readers() -> int:
    """Shares that the data are cut into."""
    return ranks() // (_groups.holders if _groups is not None else 1)


def reader() -> int:
    """Number of this process's share of the data, from 0."""
    return rank() // (_groups.holders if _groups is not None else 1) if together() else 0


def sum_over_ranks(sums: Tensor) -> Tensor:
    """Sums of all readers; of this one where it is alone. In place."""
    if together():
        total = sums.cpu() if _groups is not None else sums  # the groups of ours are on the CPU
        torch.distributed.all_reduce(total, group=_readers())
        if total is not sums:
            sums.copy_(total)
    return sums


def gather(own: T) -> list[T]:
    """What each reader has, in their order. Objects that pickle knows; tensors on the CPU."""
    if readers() == 1:
        return [own]
    parts: list[T] = [own] * readers()
    torch.distributed.all_gather_object(parts, own, group=_readers())
    return parts


def largest(own: int) -> int:
    """The largest number that any process has."""
    if not together():
        return own
    box = torch.tensor(own)
    torch.distributed.all_reduce(box, torch.distributed.ReduceOp.MAX, group=_everyone())
    return int(box)


def from_first(own: T) -> T:
    """What the first process has."""
    if not together():
        return own
    box = [own]
    torch.distributed.broadcast_object_list(box, src=0, group=_everyone())
    return box[0]


def wait_for_all() -> None:
    """Go on once every process has come here."""
    if together():
        torch.distributed.barrier(group=_everyone())


def _everyone() -> torch.distributed.ProcessGroup | None:
    return None if _groups is None else _groups.everyone


def _readers() -> torch.distributed.ProcessGroup | None:
    return None if _groups is None else _groups.readers
