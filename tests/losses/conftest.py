"""Test vectors of the fact sheet, float64, and an exact version of the one function that most losses share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext

import pytest
import torch
from torch import Tensor

from alignkit.losses.outputs import PairLogps, PairRewards


def _float64(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.fixture(scope="session")
def float64() -> Callable[..., Tensor]:
    """`float64(1, 2)` is the tensor [1, 2] in double precision."""
    return _float64


@pytest.fixture
def policy() -> PairLogps:
    """Facts 2.6. With `reference`: h = (1.5, -1, -1.5), per token (.2833333333, -.4166666667, -.1964285714)."""
    return PairLogps(
        chosen=_float64(-10, -7.5, -20),
        rejected=_float64(-12, -6, -18.5),
        chosen_tokens=torch.tensor([5, 3, 8]),
        rejected_tokens=torch.tensor([6, 2, 7]),
    )


@pytest.fixture
def reference() -> PairLogps:
    """Facts 2.6."""
    return PairLogps(
        chosen=_float64(-11, -7, -19),
        rejected=_float64(-11.5, -6.5, -19),
        chosen_tokens=torch.tensor([5, 3, 8]),
        rejected_tokens=torch.tensor([6, 2, 7]),
    )


@pytest.fixture
def scores() -> PairRewards:
    """Facts 1.5: margins (1, -1, 3)."""
    return PairRewards(chosen=_float64(1, -0.5, 2), rejected=_float64(0, 0.5, -1))


@pytest.fixture(scope="session")
def logps_with_gaps() -> Callable[[Tensor], tuple[PairLogps, PairLogps]]:
    """Policy and reference of one-token completions whose log-ratios differ by the given [B] gaps, half of it on each side."""

    def build(gaps: Tensor) -> tuple[PairLogps, PairLogps]:
        tokens = torch.ones(len(gaps), dtype=torch.int64)
        start = torch.full_like(gaps, -7.0, requires_grad=False)
        reference = PairLogps(chosen=start, rejected=start, chosen_tokens=tokens, rejected_tokens=tokens)
        policy = PairLogps(chosen=start + gaps / 2, rejected=start - gaps / 2, chosen_tokens=tokens, rejected_tokens=tokens)
        return policy, reference

    return build


@pytest.fixture(scope="session")
def exact_logistic() -> Callable[[float, float], float]:
    """(1 - epsilon) ln(1 + e^-z) + epsilon ln(1 + e^z), the textbook form that overflows in floats, with 60 decimal digits."""

    def evaluate(margin: float, epsilon: float) -> float:
        with localcontext() as context:
            context.prec = 60
            z, flip = Decimal(margin), Decimal(epsilon)
            return float((1 - flip) * (1 + (-z).exp()).ln() + flip * (1 + z.exp()).ln())

    return evaluate


@pytest.fixture(scope="session")
def close() -> Callable[[Tensor, Tensor | Sequence[float] | float], None]:
    """Equal to the ten decimals of the fact sheet; a single number is expected of every element."""

    def check(actual: Tensor, expected: Tensor | Sequence[float] | float) -> None:
        wanted = torch.as_tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(actual, wanted if wanted.dim() else wanted.expand_as(actual), rtol=0, atol=1e-9)

    return check
