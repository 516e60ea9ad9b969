"""Whether two objectives are one function: the same value and the same gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from alignkit.losses.outputs import PairLogps

EXACT = 1e-12
"""Relative and absolute: float64, in another order of operations."""
ROUNDED = 1e-6
"""The same where one of the two computes in float32."""
DISTINCT = 1e-3
"""Two means that are further apart are different numbers in any precision."""


def assert_same(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *tensors: Tensor, tolerance: float = EXACT) -> None:
    """`ours` and `theirs` are [] at these tensors, and their gradients in each of them agree."""
    mine, other = (_value_and_gradients(objective, *tensors) for objective in (ours, theirs))
    for expected, found in zip(mine, other, strict=True):
        torch.testing.assert_close(found.to(expected.dtype), expected, rtol=tolerance, atol=tolerance)


def assert_same_on_pairs(
    ours: Callable[[PairLogps], Tensor], theirs: Callable[[PairLogps], Tensor], policy: PairLogps, tolerance: float = EXACT
) -> None:
    """The same of what the policy says of pairs."""

    def of_tensors(objective: Callable[[PairLogps], Tensor]) -> Callable[..., Tensor]:
        return lambda chosen, rejected: objective(replace(policy, chosen=chosen, rejected=rejected))

    assert_same(of_tensors(ours), of_tensors(theirs), policy.chosen, policy.rejected, tolerance=tolerance)


def _value_and_gradients(objective: Callable[..., Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]
    value = objective(*leaves)
    return value.detach(), *torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
