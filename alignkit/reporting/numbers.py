"""Numbers for people: as many digits as their uncertainty leaves, units that fit, nothing where nothing is known."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import TypeGuard

ABSENT = "–"
"""Where a run has no such number."""
MOST_DECIMALS = 6


def is_number(value: object) -> TypeGuard[float]:
    """Whether there is a finite number, NumPy's among them."""
    if isinstance(value, bool):
        return False
    return isinstance(value, Real) and math.isfinite(value)


def decimals(values: Iterable[float], errors: Iterable[float] = ()) -> int:
    """Decimals for a column: two digits of its median error; without errors four digits of its largest value."""
    known = sorted(error for error in errors if math.isfinite(error) and error > 0)
    if known:
        return _decimals(known[len(known) // 2], digits=2)
    largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    return _decimals(largest, digits=4) if largest else 0


def fixed(value: float, places: int) -> str:
    """With so many decimals, thousands apart, and a minus sign that is as wide as a digit."""
    if not math.isfinite(value):
        return ABSENT
    text = f"{value:,.{places}f}"
    is_zero = not any(digit in text for digit in "123456789")
    return (text.lstrip("-") if is_zero else text).replace("-", "−")


def shown(value: object) -> str:
    """A value of a config or of results: four digits, whole numbers whole, lists by their items, nothing as `null`."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}" if not value.is_integer() or abs(value) >= 1e6 else f"{value:.0f}"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(shown, value))}]"
    return str(value)


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 20 s`, `2 h 5 min`."""
    if not math.isfinite(seconds):
        return ABSENT
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def counted(count: int, what: str) -> str:
    """`1 run`, `1,200 runs`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _decimals(value: float, *, digits: int) -> int:
    return min(MOST_DECIMALS, max(0, digits - 1 - math.floor(math.log10(value))))
