"""Ranges: what a number must be to be taken, as float32 arithmetic sees it."""

from __future__ import annotations

import math

import pytest
import torch

from alignkit.errors import LARGEST_FLOAT32, LARGEST_WHOLE, SMALLEST_FLOAT32, UserError, check_range


def test_the_bounds_are_those_of_torch() -> None:
    single = torch.finfo(torch.float32)
    assert (single.max, single.tiny) == (LARGEST_FLOAT32, SMALLEST_FLOAT32)
    assert torch.iinfo(torch.int64).max == LARGEST_WHOLE


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1e308, 10**400, 2**63, True, None, "1", [1]])
def test_what_is_no_number_for_a_tensor_is_refused_by_name(value: object) -> None:
    with pytest.raises(UserError, match=r"^loss.beta = .*; must be a number in \[0, inf\)"):
        check_range("loss.beta", value, low=0.0)  # type: ignore[arg-type]


def test_a_number_that_float32_makes_0_is_refused_where_0_is() -> None:
    check_range("loss.epsilon", 1e-300, low=0.0)
    with pytest.raises(UserError, match=r"loss.beta = 1e-300; must be a number in \(0, inf\), and 1e-38 to 3e\+38 in size: a float32"):
        check_range("loss.beta", 1e-300, above=0.0)


@pytest.mark.parametrize("value", [0, 0.0, 1, 0.1, 1e-8, LARGEST_FLOAT32, SMALLEST_FLOAT32, LARGEST_WHOLE])
def test_what_a_tensor_holds_is_taken(value: float) -> None:
    check_range("loss.beta", value, low=0.0)


def test_whole_bounds_are_told_with_all_their_digits() -> None:
    with pytest.raises(UserError, match=r"must be a number in \[0, 4294967295\]"):
        check_range("seed", 2**32, low=0, high=2**32 - 1)
