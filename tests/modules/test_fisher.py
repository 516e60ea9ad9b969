"""Fisher products from gradients of KL: the tabular softmax has them in closed form, a language model by double backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alignkit.modules.fisher import FisherProducts
from alignkit.modules.flat_parameters import FlatParameters

PROBABILITIES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def kl_gradient(displacement: Tensor) -> Tensor:
    """Of KL(p | softmax(log p + displacement)): new - old."""
    old = PROBABILITIES.to(displacement.dtype)
    return (old.log() + displacement).softmax(-1) - old


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("length", [1e-9, 1e-3, 1.0, 1e4])
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-3), (torch.float64, 1e-8)])
def test_the_tabular_fisher_matrix_is_found_from_any_first_length(length: float, dtype: torch.dtype, error: float) -> None:
    products = FisherProducts(kl_gradient, length=length)
    fisher = PROBABILITIES.diag() - PROBABILITIES.outer(PROBABILITIES)
    for vector in torch.eye(3, dtype=torch.float64) * torch.tensor([1.0, -20.0, 1e-3], dtype=torch.float64):
        assert relative(products(vector.to(dtype)), fisher @ vector) < error


def test_a_direction_that_changes_nothing_has_no_curvature_and_zero_has_none_either() -> None:
    products = FisherProducts(kl_gradient, length=1e-3)
    assert products(torch.ones(3, dtype=torch.float64)).abs().max() < 1e-6
    assert products(torch.zeros(3, dtype=torch.float64)).tolist() == [0, 0, 0]
    # and the lengths that were tried in vain are not those of the next product
    exact = PROBABILITIES * (ADVANTAGES - PROBABILITIES @ ADVANTAGES)
    assert relative(products(ADVANTAGES), exact) < 1e-8


ADVANTAGES = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)


def test_flat_parameters_come_back_to_the_bit_and_keep_their_storage() -> None:
    layer, frozen = torch.nn.Linear(3, 2), torch.nn.Linear(2, 2).requires_grad_(False)
    before = [parameter.clone() for parameter in layer.parameters()]
    flat, places = FlatParameters([*layer.parameters(), *frozen.parameters()]), [parameter.data_ptr() for parameter in layer.parameters()]
    old = flat.read()
    assert old.shape == (8,)
    flat.write(old + 1)
    assert torch.equal(layer.bias, before[1] + 1)
    flat.write(old)
    assert all(map(torch.equal, layer.parameters(), before))
    assert [parameter.data_ptr() for parameter in layer.parameters()] == places


def test_the_flat_gradient_sums_values_and_is_zero_where_they_do_not_reach() -> None:
    used, unused = torch.nn.Parameter(torch.tensor([1.0, 2.0])), torch.nn.Parameter(torch.ones(1))
    flat = FlatParameters([used, unused])
    gradient = flat.gradient(value for value in (used.square().sum(), 3 * used[0]))
    assert gradient.tolist() == [5, 4, 0]
    assert used.grad is None
