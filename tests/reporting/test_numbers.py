from __future__ import annotations

import math

import numpy as np
import pytest

from alignkit.reporting.numbers import ABSENT, decimals, duration, fixed, is_number, shown


def test_errors_decide_the_decimals_and_else_four_digits_do() -> None:
    assert decimals([0.8123, 0.79], [0.021, 0.034]) == 3  # two digits of 0.034
    assert decimals([1234.5], [12.0]) == 0
    assert decimals([0.5123456], [math.nan]) == 4
    assert decimals([12.3456]) == 2
    assert decimals([0.0]) == 0


def test_signs_and_thousands() -> None:
    assert fixed(-1234.5, 1) == "−1,234.5"
    assert fixed(-0.001, 2) == "0.00"
    assert fixed(math.nan, 2) == ABSENT


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "null"),
        (True, "true"),
        (0.1, "0.1"),
        (1.0, "1"),
        (5e-4, "0.0005"),
        (1e-8, "1e-08"),
        (7, "7"),
        ((-1, 2), "[-1, 2]"),
        ("dpo", "dpo"),
    ],
)
def test_values_as_people_type_them(value: object, words: str) -> None:
    assert shown(value) == words


def test_times() -> None:
    assert [duration(seconds) for seconds in (4.21, 59.97, 200.0, 7500.0)] == ["4.2 s", "1 min 0 s", "3 min 20 s", "2 h 5 min"]


def test_what_a_number_is() -> None:
    assert is_number(np.float64(1.0))
    assert is_number(np.int64(1))
    assert not any(map(is_number, (True, "1", None, math.nan, math.inf)))
