from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from alignkit.errors import UserError
from alignkit.losses.orthogonality import Orthogonality

LOSS = Orthogonality()


def rotation(width: int) -> Tensor:
    torch.manual_seed(0)
    orthogonal, _ = torch.linalg.qr(torch.randn(width, width, dtype=torch.float64))
    return orthogonal


@pytest.mark.parametrize("matrix", [torch.eye(4, dtype=torch.float64), rotation(4), rotation(4)[:, :2], rotation(4)[:3], -rotation(4)])
def test_orthonormal_rows_or_columns_cost_nothing(close, matrix: Tensor) -> None:
    close(LOSS((matrix,)), 0.0)


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (5, 2), (2, 5)])
def test_the_loss_is_the_distance_of_the_squared_singular_values_from_one(rows: int, columns: int) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(rows, columns, dtype=torch.float64)
    expected = (torch.linalg.svdvals(matrix).square() - 1).square().sum().sqrt()
    torch.testing.assert_close(LOSS((matrix,)), expected)


def test_losses_by_hand(close, float64) -> None:
    # diag(2, 1): P^T P - I = diag(3, 0). A row (3, 4): P P^T - 1 = 24. Half the identity of width 4: 4 entries of -3/4.
    close(LOSS((torch.diag(float64(2, 1)),)), 3.0)
    close(LOSS((float64(3, 4)[None],)), 24.0)
    close(LOSS((torch.eye(4, dtype=torch.float64) / 2,)), 1.5)


def test_losses_of_several_matrices_are_summed(close, float64) -> None:
    close(LOSS((torch.diag(float64(2, 1)), rotation(3), float64(3, 4)[None])), 27.0)


def test_a_turn_before_or_after_changes_nothing() -> None:
    torch.manual_seed(0)
    matrix = torch.randn(3, 5, dtype=torch.float64)
    torch.testing.assert_close(LOSS((rotation(3) @ matrix @ rotation(5),)), LOSS((matrix,)))


@pytest.mark.parametrize(("scale", "sign"), [(2.0, 1), (0.5, -1)])
def test_gradients_bring_lengths_to_one(scale: float, sign: int) -> None:
    matrix = (scale * rotation(3)).requires_grad_()
    LOSS((matrix,)).backward()
    assert matrix.grad is not None
    assert math.copysign(1, (matrix * matrix.grad).sum().item()) == sign


def test_at_the_minimum_the_gradient_is_zero_and_not_nan() -> None:
    matrix = torch.eye(3, dtype=torch.float64).requires_grad_()
    LOSS((matrix,)).backward()
    assert matrix.grad is not None
    assert matrix.grad.tolist() == torch.zeros(3, 3).tolist()


def test_gradients_are_the_derivatives_of_the_losses() -> None:
    torch.manual_seed(0)
    leaves = torch.randn(2, 4, dtype=torch.float64, requires_grad=True), torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *matrices: LOSS(matrices), leaves)


def test_the_loss_is_float32_in_bf16_and_under_autocast() -> None:
    matrix = rotation(8).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = LOSS((matrix,))
    assert torch.equal(mixed, LOSS((matrix,)))
    assert LOSS((matrix.bfloat16(),)).dtype == torch.float32


def test_what_is_no_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \[3\]"):
        LOSS((torch.eye(3), torch.zeros(3)))


def test_a_pooler_without_matrices_is_refused() -> None:
    with pytest.raises(UserError, match=r"no matrix.*loss\.head\.pooler=bert"):
        LOSS(())
