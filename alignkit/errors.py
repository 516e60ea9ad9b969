"""What alignkit says when it cannot go on: where, what came, what is allowed, what to type."""

from __future__ import annotations

import difflib
import math
import signal
from collections.abc import Iterable
from typing import final

LARGEST_WHOLE = 2**63 - 1
"""That a tensor can count to."""
LARGEST_FLOAT32, SMALLEST_FLOAT32 = 3.4028234663852886e38, 1.1754943508222875e-38
"""In size; smaller numbers lose digits and become 0."""


class UserError(ValueError):
    """The user's input is wrong. The shell prints the message without a traceback and exits with code 2."""


@final
class DivergedError(RuntimeError):
    """Training produced a number that is not finite. The shell saves the last good weights and exits with code 3."""


@final
class StorageError(RuntimeError):
    """Training is done or stopped, and its files could not be written. The shell says how to go on and exits with code 3."""


@final
class RankError(RuntimeError):
    """One of several processes crashed or was killed. The message says which, and holds its own traceback; the shell exits with code 1."""


def heard_signals(numbers: Iterable[signal.Signals]) -> list[signal.Signals]:
    """Those that stop a run here: who has started it with nohup wants no SIGHUP. (A shell's `&` ignores SIGINT, which still means it.)"""
    return [number for number in numbers if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN]


def signal_exit_code(number: signal.Signals) -> int:
    """Of a run that a signal ended, as shells count: 130 for Ctrl-C, 129 for SIGHUP, 143 for SIGTERM and for SIGUSR1, Slurm's warning."""
    return 128 + (signal.SIGTERM if number is signal.SIGUSR1 else number)


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
    """Refuse a setting that is not a finite number in its range, or that arithmetic turns into another: into infinity or 0 in float32.

    `low` and `high` are allowed values themselves, `above` and `below` are not. `where` is the dotted path a user
    types (`loss.epsilon`), `hint` one sentence that says what the number means and what to try.

    Raises:
        UserError: naming the setting, the value that came and the range.
    """
    opening = f"[{plainly(low)}" if low is not None else f"({plainly(above)}" if above is not None else "(-inf"
    closing = f"{plainly(high)}]" if high is not None else f"{plainly(below)})" if below is not None else "inf)"
    whole = isinstance(value, int) and not isinstance(value, bool)
    is_number = whole or (isinstance(value, float) and math.isfinite(value))
    if (
        not is_number
        or (low is not None and value < low)
        or (above is not None and value <= above)
        or (high is not None and value > high)
        or (below is not None and value >= below)
    ):
        raise UserError(f"{where} = {value!r}; must be a number in {opening}, {closing}.{' ' + hint if hint else ''}")
    size = abs(value)
    if whole and size > LARGEST_WHOLE:
        raise UserError(f"{where} = {value}; must be a number in {opening}, {closing}, and no more than {LARGEST_WHOLE} in size.")
    # Where 0 is allowed, what float32 makes 0 does no harm.
    if not whole and (size > LARGEST_FLOAT32 or (above == 0 and size < SMALLEST_FLOAT32)):
        sizes = f"{SMALLEST_FLOAT32:.1g} to {LARGEST_FLOAT32:.1g} in size: a float32"
        raise UserError(f"{where} = {value!r}; must be a number in {opening}, {closing}, and {sizes}.")


def plainly(bound: float) -> str:
    """An end of a range, all digits of a whole number."""
    return str(int(bound)) if float(bound).is_integer() and abs(bound) < LARGEST_WHOLE else f"{bound:g}"


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
