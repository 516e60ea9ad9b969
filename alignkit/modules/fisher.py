"""Products with the Fisher information of a policy, from gradients of its KL alone.

D parameters, as one flat vector
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor

TRIALS = 8
"""Lengths that a product tries at most: one, and where that was far too long or too short others."""
LEEWAY = 16.0
"""How far the KL of a length may be from the wanted one, as a factor: its error is then still small beside the KL."""


@final
class FisherProducts:
    """F v [D] of vectors v [D], F the Hessian of KL(old | new) at new = old, by central differences of the KL's gradient.

        F v = (grad KL(old | old + h v) - grad KL(old | old - h v)) / 2h + O(h^2)

    The gradient is zero at the old policy, so that no digits cancel there, and the differences are central, so that only odd
    derivatives are left over. Double backward would be exact, but the memory-saving functions of `logps` and of attention have none.
    Rounding, eps / x for a change x of the logits, and the error, x^2, are equally small at x = eps^(1/3): lengths are chosen for
    KL(old | new) of about eps^(2/3), 2e-5 nats in float32, and each product remembers its own for the next one.
    """

    def __init__(self, gradient: Callable[[Tensor], Tensor], *, length: float) -> None:
        """
        Args:
            gradient: of KL(old | new) [D] at old + a displacement [D].
            length: of a displacement that is tried first, > 0.
        """
        self._gradient = gradient
        self._length = length

    def __call__(self, vector: Tensor) -> Tensor:
        norm = vector.norm()
        if norm == 0:
            return torch.zeros_like(vector)
        unit, wanted = vector / norm, torch.finfo(vector.dtype).eps ** (2 / 3)
        length, product = self._length, torch.zeros_like(vector)
        for _ in range(TRIALS):
            product = (self._gradient(length * unit) - self._gradient(-length * unit)) / (2 * length)
            kl = length**2 * float(unit @ product) / 2
            if wanted / LEEWAY <= kl <= wanted * LEEWAY:
                self._length = length
                break
            # Far out KL is not quadratic, and rounding may make it negative: no more than a hundredfold at once.
            length *= min(max(math.sqrt(wanted / kl), 1e-2), 1e2) if 0 < kl < math.inf else (1e2 if kl <= 0 else 1e-2)
        scaled: Tensor = norm * product
        return scaled
