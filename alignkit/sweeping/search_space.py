"""What a study may choose from, as it was typed: `interval(a,b)`, `int(interval(a,b))`, `range(a,b,s)`, `a,b,c`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, final

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer

from alignkit.errors import UserError

LOG = "log"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Numbers:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    log: bool
    """Whether their logarithms are drawn evenly."""
    whole: bool
    step: float | None = None
    """Distance of two of them; None for all numbers between."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """Any of these, as Hydra writes them."""

    values: tuple[str, ...]


Dimension: TypeAlias = Numbers | Choices


def dimension(override: Override) -> Dimension | None:
    """What an override lets a study choose from; None where it says one value.

    Raises:
        UserError: on an interval without width, or one of whole numbers or logarithms that cannot be.
    """
    if not override.is_sweep_override():
        return None
    key, value = override.key_or_group, override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        return checked(key, numbers(value.start, value.end, tags=value.tags))
    if isinstance(value, RangeSweep) and not value.shuffle:
        assert value.start is not None
        assert value.stop is not None
        # Hydra's range leaves its end out.
        count = math.ceil((value.stop - value.start) / value.step)
        if count < 1:
            raise UserError(f"{key} = {override.get_value_string()}; holds no number.")
        first, last = value.start, value.start + (count - 1) * value.step
        whole = all(isinstance(number, int) for number in (value.start, value.step))
        low, high = min(first, last), max(first, last)
        return Numbers(low=low, high=high, log=False, whole=whole, step=abs(value.step))
    return Choices(values=tuple(str(element) for element in override.sweep_iterator(transformer=Transformer.encode)))


def numbers(low: float, high: float, *, tags: set[str]) -> Numbers:
    """An interval; of whole numbers where both ends were cast to them: `int(interval(1,8))`."""
    return Numbers(low=low, high=high, log=LOG in tags, whole=isinstance(low, int) and isinstance(high, int))


def checked(key: str, interval: Numbers) -> Numbers:
    """Raises UserError on an interval that holds nothing, or that has no logarithm."""
    if not interval.low < interval.high:
        raise UserError(f"{key} = interval({interval.low},{interval.high}); its first number must be the smaller one.")
    if interval.log and interval.low <= 0:
        raise UserError(f"{key} = interval({interval.low},{interval.high}); is tagged log, so that its ends must be above 0.")
    return interval


def ends(space: Mapping[str, Dimension]) -> list[list[str]]:
    """Overrides that together try the ends of every dimension, and each choice: one differs from the first at a time.

    What works at all of them works in between: the ranges of settings have no holes.
    """
    values = {key: extremes(of_key) for key, of_key in space.items()}
    first = {key: options[0] for key, options in values.items()}
    corners = [first] + [{**first, key: option} for key, options in values.items() for option in options[1:]]
    return [[f"{key}={value}" for key, value in corner.items()] for corner in corners]


def extremes(of_key: Dimension) -> list[str]:
    """The choices, or the lowest and the highest number."""
    if isinstance(of_key, Choices):
        return list(of_key.values)
    return [written(of_key, of_key.low), written(of_key, of_key.high)]


def written(of_key: Numbers, value: float) -> str:
    """A number as an override holds it."""
    return str(int(value)) if of_key.whole else repr(float(value))
