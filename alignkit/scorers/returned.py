"""What somebody else's code returns, as scores."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real

from torch import Tensor

from alignkit.errors import UserError

LONGEST_QUOTE = 200
"""Characters of what came that a message repeats."""


def checked_scores(who: str, returned: object, count: int) -> list[float]:
    """`count` finite numbers: a list, a tensor, an array, or whatever else can be gone through.

    `who` names the code or the address as the user typed it.

    Raises:
        UserError: saying what came instead.
    """
    values = returned.tolist() if isinstance(returned, Tensor) else returned
    if not isinstance(values, Iterable) or isinstance(values, str | bytes | dict):
        raise UserError(f"{who}: must give a list of {count} numbers, one for each completion; gave {quoted(returned)}.")
    values = list(values)
    if len(values) != count:
        raise UserError(f"{who}: must give one number for each of {count} completions; gave {len(values)}: {quoted(values)}.")
    for place, value in enumerate(values):
        if not isinstance(value, Real) or not math.isfinite(value):
            raise UserError(f"{who}: must give finite numbers; gave {quoted(value)} for completion {place + 1} of {count}.")
    return [float(value) for value in values]


def quoted(value: object) -> str:
    """A value as it is written in Python, shortened."""
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}..."
