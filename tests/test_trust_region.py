"""Facts 3.7: the tabular softmax, p = (.5, .3, .2), A = (1, 0, 2), delta = .01. There F = diag(p) - p p^T, and F^-1 g is A itself."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alignkit.errors import UserError
from alignkit.trust_region import backtrack, conjugate_gradient, trust_region_step

OLD = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
ADVANTAGES = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
GRADIENT = OLD * (ADVANTAGES - OLD @ ADVANTAGES)


def fisher_product(vector: Tensor) -> Tensor:
    return OLD * (vector - OLD @ vector)


def full_step(max_kl: float = 0.01, damping: float = 0.0) -> Tensor:
    return trust_region_step(GRADIENT, fisher_product, max_kl=max_kl, damping=damping, iterations=10)


def moved(step: Tensor) -> Tensor:
    return (OLD.log() + step).softmax(dim=-1)


def kl(first: Tensor, second: Tensor) -> Tensor:
    return (first * (first / second).log()).sum()


def gain(new: Tensor) -> float:
    return float((new - OLD) @ ADVANTAGES)


def close(actual: Tensor, expected: Tensor | list[float]) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


def test_the_full_step_is_that_of_the_fact_sheet() -> None:
    # The advantages up to a constant, which the softmax does not see.
    close(full_step() - full_step()[1], 0.2020305089 * ADVANTAGES)
    new = moved(full_step())
    close(new, [0.5051025106, 0.2476224649, 0.2472750246])
    assert float(kl(OLD, new)) == pytest.approx(0.0100497494, abs=1e-9)
    assert float(kl(new, OLD)) == pytest.approx(0.0100831079, abs=1e-9)
    assert gain(new) == pytest.approx(0.0996525597, abs=1e-9)


def test_the_line_search_shrinks_the_step_that_leaves_the_region() -> None:
    def evaluate(fraction: float) -> tuple[float, float]:
        new = moved(fraction * full_step())
        return gain(new), float(kl(OLD, new))

    # The full step is at .01005 > .01; 0.8 of it near 0.64 of that.
    assert backtrack(evaluate, max_kl=0.01, backtracks=10, ratio=0.8) == 0.8
    assert evaluate(0.8)[1] == pytest.approx(0.64 * 0.01, rel=0.02)
    assert backtrack(evaluate, max_kl=0.0101, backtracks=10, ratio=0.8) == 1.0
    assert backtrack(evaluate, max_kl=0.01, backtracks=1, ratio=0.8) == 0.0


def test_the_product_is_the_hessian_of_the_divergence() -> None:
    # What the step takes for F here, against autograd.
    hessian = torch.autograd.functional.hessian(lambda logits: kl(OLD, logits.softmax(dim=-1)), OLD.log())
    close(torch.stack([fisher_product(row) for row in torch.eye(3, dtype=torch.float64)]), hessian)


@given(damping=st.floats(0, 10), max_kl=st.floats(1e-8, 1))
@settings(max_examples=30, deadline=None)
def test_any_damping_leaves_the_second_order_divergence_at_the_radius(damping: float, max_kl: float) -> None:
    step = full_step(max_kl=max_kl, damping=damping)
    assert float(step @ fisher_product(step)) / 2 == pytest.approx(max_kl, rel=1e-9)
    assert float(step @ GRADIENT) > 0


def test_damping_turns_the_natural_gradient_towards_the_plain_one() -> None:
    def cosine(damping: float) -> float:
        return float(torch.cosine_similarity(full_step(damping=damping), GRADIENT, dim=0))

    assert cosine(0.0) < cosine(0.1) < cosine(1.0) < cosine(1e4)
    assert cosine(1e4) == pytest.approx(1.0, abs=1e-8)


def test_a_policy_at_its_optimum_does_not_move() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    assert trust_region_step(zero, fisher_product, max_kl=0.01, damping=0.1, iterations=10).tolist() == [0.0, 0.0, 0.0]


@given(seed=st.integers(0, 2**31), width=st.integers(1, 8), rank=st.integers(1, 8))
@settings(max_examples=50, deadline=None)
def test_conjugate_gradients_solve_any_semi_definite_system(seed: int, width: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    directions, _ = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    eigenvalues = torch.where(torch.arange(width) < rank, 1 + 9 * torch.rand(width, generator=generator, dtype=torch.float64), 0.0)
    matrix = directions * eigenvalues @ directions.T
    b = matrix @ torch.randn(width, generator=generator, dtype=torch.float64)
    solution = conjugate_gradient(lambda vector: matrix @ vector, b, iterations=2 * width, tolerance=1e-14)
    torch.testing.assert_close(solution, torch.linalg.pinv(matrix, rtol=1e-6) @ b, rtol=1e-8, atol=1e-8)


def test_conjugate_gradients_are_exact_after_one_iteration_an_eigenvalue() -> None:
    diagonal = torch.tensor([2.0, 2.0, 5.0, 5.0, 5.0], dtype=torch.float64)
    b, products = torch.arange(1.0, 6.0, dtype=torch.float64), []

    def product(vector: Tensor) -> Tensor:
        products.append(vector)
        return diagonal * vector

    assert (conjugate_gradient(product, b, iterations=1, tolerance=1e-12) - b / diagonal).abs().max() > 0.01
    close(conjugate_gradient(product, b, iterations=2, tolerance=1e-12), b / diagonal)
    products.clear()
    close(conjugate_gradient(product, b, iterations=100, tolerance=1e-12), b / diagonal)
    assert len(products) <= 3


@pytest.mark.parametrize("outcome", [(math.nan, 0.0), (1.0, math.nan), (math.inf, 0.0), (0.0, 0.0), (-1.0, 0.0), (1.0, 0.02)])
def test_a_fraction_that_gains_nothing_or_leaves_the_region_is_refused(outcome: tuple[float, float]) -> None:
    assert backtrack(lambda fraction: outcome, max_kl=0.01, backtracks=3, ratio=0.5) == 0.0


def test_fractions_fall_by_the_ratio_until_one_is_accepted() -> None:
    tried = []

    def evaluate(fraction: float) -> tuple[float, float]:
        tried.append(fraction)
        return 1.0, fraction

    assert backtrack(evaluate, max_kl=0.2, backtracks=10, ratio=0.5) == 0.125
    assert tried == [1.0, 0.5, 0.25, 0.125]


def test_settings_out_of_range_are_named() -> None:
    with pytest.raises(UserError, match=r"max_kl = 0\.0; must be a number in \(0, inf\)"):
        full_step(max_kl=0.0)
    with pytest.raises(UserError, match="damping = -1"):
        full_step(damping=-1)
    with pytest.raises(UserError, match="iterations = 0"):
        conjugate_gradient(fisher_product, GRADIENT, iterations=0, tolerance=0.0)
    with pytest.raises(UserError, match="tolerance = -1"):
        conjugate_gradient(fisher_product, GRADIENT, iterations=1, tolerance=-1)
    with pytest.raises(UserError, match=r"ratio = 1\.0"):
        backtrack(lambda fraction: (1.0, 0.0), max_kl=0.01, backtracks=10, ratio=1.0)
    with pytest.raises(UserError, match="backtracks = 0"):
        backtrack(lambda fraction: (1.0, 0.0), max_kl=0.01, backtracks=0, ratio=0.8)
