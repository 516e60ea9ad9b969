"""Trust-region policy optimisation: the step that gains most within a distance in KL, and the search that makes sure of it.

Schulman et al. 2015 (arXiv:1502.05477), section 6 and appendix C. Near the old policy KL(old | new) = 1/2 d^T F d for a change d of
the parameters, F the Fisher information: the gain g^T d within KL <= max_kl is largest along the natural gradient F^-1 g.
Usual settings: max_kl 0.01 nats, damping 0.1, 10 iterations, 10 trials of ratio 0.8.

D parameters, as one flat vector
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from alignkit.errors import check_range


def conjugate_gradient(product: Callable[[Tensor], Tensor], b: Tensor, *, iterations: int, tolerance: float) -> Tensor:
    """The solution [D] of A x = b for a symmetric positive semi-definite A that is known by its products alone.

    Exact after as many iterations as A has distinct eigenvalues, up to rounding. A singular A is allowed where b is in its range: the
    solution is then the shortest one.

    Args:
        product: A v [D] of a vector v [D].
        b: [D], float.
        iterations: products at most, at least 1.
        tolerance: ends when |A x - b| <= tolerance |b|; at least 0.

    Raises:
        UserError: if a setting is out of its range.
    """
    check_range("iterations", iterations, low=1)
    check_range("tolerance", tolerance, low=0.0)
    solution, residual = torch.zeros_like(b), b.clone()
    direction, square = residual, residual @ residual
    enough = tolerance**2 * square
    for _ in range(iterations):
        image = product(direction)
        curvature = direction @ image
        # Also true of b = 0, and of a direction that rounding alone has left over from a singular A.
        if square <= enough or curvature <= 0:
            break
        step = square / curvature
        solution = solution + step * direction
        residual = residual - step * image
        previous, square = square, residual @ residual
        direction = residual + square / previous * direction
    return solution


def trust_region_step(
    gradient: Tensor,
    fisher_product: Callable[[Tensor], Tensor],
    *,
    max_kl: float,
    damping: float,
    iterations: int,
) -> Tensor:
    """The full step [D] along the natural gradient: to second order it changes the policy by exactly `max_kl`.

        s = (F + damping I)^-1 g        step = sqrt(2 max_kl / s^T F s) s

    Zero where the gradient is zero. Damping bends the direction towards the plain gradient and leaves the length alone; the authors'
    code has it in s^T (F + damping I) s too, which makes the step shorter than the region allows.

    Args:
        gradient: [D], of the surrogate, which is to grow.
        fisher_product: F v [D] of a vector v [D]; F is the Hessian of KL(old | new) at new = old.
        max_kl: radius in nats, above 0.
        damping: at least 0.
        iterations: of conjugate gradients, at least 1.

    Raises:
        UserError: if a setting is out of its range.
    """
    check_range("max_kl", max_kl, above=0.0)
    check_range("damping", damping, low=0.0)

    def damped(vector: Tensor) -> Tensor:
        return fisher_product(vector) + damping * vector

    direction = conjugate_gradient(damped, gradient, iterations=iterations, tolerance=torch.finfo(gradient.dtype).eps)
    curvature = float(direction @ fisher_product(direction))
    if curvature <= 0:
        return torch.zeros_like(gradient)
    return math.sqrt(2 * max_kl / curvature) * direction


def backtrack(evaluate: Callable[[float], tuple[float, float]], *, max_kl: float, backtracks: int, ratio: float) -> float:
    """The largest fraction of a step, of 1, ratio, ratio^2, ..., that gains something inside the region; 0 where none does.

    A number that is not finite gains nothing.

    Args:
        evaluate: the gain of the surrogate and KL(old | new) in nats after a fraction of the step.
        max_kl: radius in nats, above 0.
        backtracks: fractions that are tried, the full step the first of them; at least 1.
        ratio: of one fraction to the one before, in (0, 1).

    Raises:
        UserError: if a setting is out of its range.
    """
    check_range("max_kl", max_kl, above=0.0)
    check_range("backtracks", backtracks, low=1)
    check_range("ratio", ratio, above=0.0, below=1.0)
    for trial in range(backtracks):
        gain, kl = evaluate(ratio**trial)
        if 0 < gain < math.inf and kl <= max_kl:
            return float(ratio**trial)
    return 0.0
