"""What alignkit says when it cannot go on: where, what came, what is allowed, what to type."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import final


class UserError(ValueError):
    """The user's input is wrong. The shell prints the message without a traceback and exits with code 2."""


@final
class DivergedError(RuntimeError):
    """Training produced a number that is not finite. The shell saves the last good weights and exits with code 3."""


@final
class RankError(RuntimeError):
    """One of several processes crashed or was killed. The message says which, and holds its own traceback; the shell exits with code 1."""


def check_range(
    where: str,
    value: float,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    hint: str = "",
) -> None:
    """Refuse a setting that is not a finite number in its range.

    `low` and `high` are allowed values themselves, `above` and `below` are not. `where` is the dotted path a user
    types (`loss.epsilon`), `hint` one sentence that says what the number means and what to try.

    Raises:
        UserError: naming the setting, the value that came and the range.
    """
    opening = f"[{low:g}" if low is not None else f"({above:g}" if above is not None else "(-inf"
    closing = f"{high:g}]" if high is not None else f"{below:g})" if below is not None else "inf)"
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if (
        not is_number
        or (low is not None and value < low)
        or (above is not None and value <= above)
        or (high is not None and value > high)
        or (below is not None and value >= below)
    ):
        raise UserError(f"{where} = {value!r}; must be a number in {opening}, {closing}.{' ' + hint if hint else ''}")


def check_choice(where: str, value: str, choices: Iterable[str]) -> None:
    """Refuse a setting that is not one of `choices`, naming the nearest one.

    Raises:
        UserError: naming the setting, the value that came and the choices.
    """
    choices = list(choices)
    if value not in choices:
        raise UserError(f"{where} = {value!r}; must be one of {', '.join(choices)}.{did_you_mean(value, choices)}")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or an empty string when nothing known is near `word`."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
