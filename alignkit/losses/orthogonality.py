"""A penalty on projections that stretch or forget directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from alignkit.errors import UserError
from alignkit.losses.families import WeightsLoss


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Orthogonality(WeightsLoss):
    """How far a head's matrices are from orthonormal rows or columns.

        L = sum_P || G(P) - I ||_F,   G(P) = P^T P if P [out, in] has out >= in, else P P^T

    The smaller of the two Gram matrices: the larger one cannot be the identity. 0 exactly where all singular values are 1, so
    that a state keeps its length on the way through (out >= in) or loses nothing but what is projected away (out < in). The norm
    is not squared, as in the later code of DPH's authors (memory-transformer-pt4, weight 0.01).
    """

    formula: ClassVar[str] = "L = sum over matrices of ||P^T P - I||_F, the smaller Gram matrix"
    optimum: ClassVar[str] = "singular values = 1"

    def __call__(self, matrices: tuple[Tensor, ...]) -> Tensor:
        """Raises UserError where there is no matrix, ValueError for a tensor that is none."""
        if not matrices:
            raise UserError("loss=orthogonality: the head's pooler has no matrix. Try loss.head.pooler=bert.")
        return torch.stack([_distance(matrix) for matrix in matrices]).sum()


def _distance(matrix: Tensor) -> Tensor:
    if matrix.dim() != 2:
        raise ValueError(f"a matrix is expected, not a tensor of shape {list(matrix.shape)}")
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    with torch.autocast(matrix.device.type, enabled=False):
        wide = tall.to(torch.promote_types(matrix.dtype, torch.float32))
        identity = torch.eye(wide.shape[1], dtype=wide.dtype, device=wide.device)
        distance: Tensor = torch.linalg.matrix_norm(wide.T @ wide - identity)
        return distance
