"""Gradients of processes that train together: their mean and their norm, whoever holds which part of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

CLIP_EPSILON = 1e-6
"""Of `torch.nn.utils.clip_grad_norm_`, which one process uses: the norm is divided by after it is added."""
Place = tuple[torch.distributed.ProcessGroup, ...]
"""The processes among which a gradient is cut."""


def clip_gradients(parameters: Sequence[nn.Parameter], limit: float) -> float:
    """Scale the gradients of parameters that have one so that their common norm is at most `limit`, in place.

    Returns:
        The norm before that, of whole gradients: the same on every rank.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not any(isinstance(gradient, DTensor) for gradient in gradients):
        return float(torch.nn.utils.clip_grad_norm_(parameters, limit))
    norm = gradient_norm(gradients)
    factor = limit / (norm + CLIP_EPSILON)
    if factor < 1:  # not where the norm is no number
        torch._foreach_mul_([local(gradient) for gradient in gradients], factor)
    return norm


@torch.no_grad()
def gradient_norm(gradients: Sequence[Tensor]) -> float:
    """Euclidean norm of all gradients together. Those that are cut are added up over the processes that hold parts of them."""
    squares: defaultdict[Place, list[Tensor]] = defaultdict(list)
    for gradient in gradients:
        squares[holders(gradient)].append(torch.linalg.vector_norm(local(gradient), dtype=torch.float32).square())
    total = 0.0
    for groups, parts in squares.items():
        of_place = torch.stack(parts).sum()
        for group in groups:
            torch.distributed.all_reduce(of_place, group=group)
        total += float(of_place)
    return math.sqrt(total)


def holders(gradient: Tensor) -> Place:
    """The groups of processes among which a gradient is cut; none where this process has all of it."""
    if not isinstance(gradient, DTensor):
        return ()
    assert not any(placement.is_partial() for placement in gradient.placements), "a gradient that is not summed yet"
    mesh = gradient.device_mesh
    return tuple(mesh.get_group(dim) for dim, placement in enumerate(gradient.placements) if not placement.is_replicate())


def local(gradient: Tensor) -> Tensor:
    """The part of a gradient that this process holds."""
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter], group: torch.distributed.ProcessGroup) -> None:
    """Mean over a group of the gradients of parameters that every process holds whole. One that no process has stays away."""
    if not parameters:
        return
    there = torch.tensor([float(parameter.grad is not None) for parameter in parameters], device=parameters[0].device)
    torch.distributed.all_reduce(there, group=group)
    used = [parameter for parameter, count in zip(parameters, there.tolist(), strict=True) if count]
    if not used:
        return
    flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in used])
    torch.distributed.all_reduce(flat, group=group)
    flat /= torch.distributed.get_world_size(group)
    for parameter, mean in zip(used, flat.split([parameter.numel() for parameter in used]), strict=True):
        parameter.grad = mean.view_as(parameter).to(parameter.dtype)


def all_finite(tensors: Iterable[object]) -> bool:
    """Whether none holds NaN or an infinity, as far as this process has them; one wait for the device."""
    flags = [local(tensor).isfinite().all() for tensor in tensors if isinstance(tensor, Tensor) and tensor.is_floating_point()]
    return not flags or bool(torch.stack([flag.to(flags[0].device) for flag in flags]).all())
