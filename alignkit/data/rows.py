"""Typed access to one row of a table: what a source reads, checked where it is read."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from typing import final, get_args

from alignkit.data.examples import Message, Role
from alignkit.errors import did_you_mean
from alignkit.terminal import visible

ROLES: tuple[str, ...] = get_args(Role)
TRUTHS: Mapping[str, bool] = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
"""What is read as true or false; in CSV files it is text."""
_SHORT = reprlib.Repr()
"""Writes the beginning of a value, however long or deep it is."""
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 120
LARGEST = 1e38
"""Larger numbers are as good as infinite to a loss, which is computed in float32."""


@final
class RowError(ValueError):
    """A row that is not in its format. Whoever reads the table adds which row of which file."""


@final
class DroppedRow(Exception):  # noqa: N818  a verdict, not a failure
    """A row in its format that cannot become an example. Counted under `reason` and against `dataset.max_dropped`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        """A key of `alignkit.data.dropping.REASONS`."""


def text(row: Mapping[str, object], column: str) -> str:
    """The text in a column.

    Raises:
        RowError: when it is null or not text.
    """
    value = _present(row, column)
    if not isinstance(value, str):
        raise RowError(f"'{column}' is {_described(value)}; must be text.")
    return without_nul(value, f"'{column}'")


def without_nul(value: str, where: str) -> str:
    """A text, if it has no NUL character: what prints, stores and compares texts often takes it for their end.

    Raises:
        RowError: when it has one.
    """
    if "\0" in value:
        raise RowError(f"{where} holds the character NUL (\\u0000); text must not. Delete the character.")
    return value


def number(row: Mapping[str, object], column: str) -> float:
    """The finite number in a column; the cells of CSV files are text and are read as numbers.

    Raises:
        RowError: when it is null or not a finite number.
    """
    value = _present(row, column)
    parsed = _number(value)
    if not math.isfinite(parsed):
        raise RowError(f"'{column}' is {_described(value)}; must be a finite number.")
    return parsed


def numbers(row: Mapping[str, object], column: str, count: int) -> tuple[float, ...]:
    """The finite numbers in a column, a list with one for each of `count` completions.

    Raises:
        RowError: when they are not as many, or one is not a finite number.
    """
    values = numbers_or_nan(row, column, count)
    if not all(map(math.isfinite, values)):
        raise RowError(f"'{column}' is {_described(row[column])}; must be a list of finite numbers.")
    return values


def numbers_or_nan(row: Mapping[str, object], column: str, count: int) -> tuple[float, ...]:
    """One rating for each of `count` completions, NaN for null; a number alone rates the only completion.

    Raises:
        RowError: when they are not as many, or one is neither a finite number nor null.
    """
    value = row.get(column)
    values = value if isinstance(value, list) else [value] if count == 1 or value is None else None
    if values is None or (value is not None and len(values) != count):
        raise RowError(f"'{column}' is {_described(value)}; must be a list of {count}, one for each completion.")
    parsed = [math.nan if one is None else _number(one) for one in values]
    wrong = [one for one, number in zip(values, parsed, strict=True) if one is not None and not math.isfinite(number)]
    if wrong:
        raise RowError(f"'{column}' holds {_described(wrong[0])}; must hold finite numbers.")
    return tuple(parsed) if value is not None else (math.nan,) * count


def truths(row: Mapping[str, object], column: str, count: int) -> tuple[bool, ...]:
    """Whether each of `count` completions is wanted: a list of true and false, or one of them for the only completion.

    Raises:
        RowError: when they are not as many, or one is neither true nor false (or the text of it, or 1 or 0).
    """
    value = _present(row, column)
    values = value if isinstance(value, list) else [value]
    if len(values) != count:
        raise RowError(f"'{column}' is {_described(value)}; must be a list of {count}, true or false for each completion.")
    known = [TRUTHS.get(str(one).lower()) for one in values]
    if None in known:
        raise RowError(f"'{column}' holds {_described(values[known.index(None)])}; must hold true or false.")
    return tuple(truth is True for truth in known)


def items(row: Mapping[str, object], column: str) -> list[object]:
    """The list in a column.

    Raises:
        RowError: when it is null, no list or an empty one.
    """
    value = _present(row, column)
    if not isinstance(value, list) or not value:
        raise RowError(f"'{column}' is {_described(value)}; must be a list with at least one element.")
    return value


def messages(row: Mapping[str, object], column: str) -> tuple[Message, ...]:
    """The chat messages in a column: a list of `{"role": ..., "content": ...}`; other keys are not read.

    Raises:
        RowError: when it is null, empty, or one of the messages has another form.
    """
    value = _present(row, column)
    if not isinstance(value, list):
        raise RowError(f"'{column}' is {_described(value)}; must be a list of messages with role and content.")
    if not value:
        raise RowError(f"'{column}' is an empty list; must hold at least one message with role and content.")
    return tuple(_message(turn, f"'{column}', message {place}") for place, turn in enumerate(value, start=1))


def _message(turn: object, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise RowError(f"{where} is {_described(turn)}; must be an object with role and content.")
    if "role" not in turn or "content" not in turn:
        raise RowError(f"{where} has the keys {visible(', '.join(map(str, list(turn)[:9])))}; must have role and content.")
    role, content = turn["role"], turn["content"]
    if role not in ROLES:
        raise RowError(
            f"{where} has the role {visible(_SHORT.repr(role))}; must be one of {', '.join(ROLES)}.{did_you_mean(str(role), ROLES)}"
        )
    if isinstance(content, list):
        raise RowError(f"{where}: content is a list of parts; must be text: images and other parts are not supported.")
    if not isinstance(content, str):
        raise RowError(f"{where}: content is {_described(content)}; must be text.")
    return Message(role=role, content=without_nul(content, f"{where}: content"))


def reply(dialogue: tuple[Message, ...], column: str) -> tuple[tuple[Message, ...], str]:
    """A dialogue as what came before its last turn, and what the assistant says in it.

    Raises:
        RowError: when somebody else has the last word.
    """
    last = dialogue[-1]
    if last.role != "assistant":
        raise RowError(f"'{column}' ends with a turn of the {last.role}; must end with the assistant's answer.")
    return dialogue[:-1], last.content


def _number(value: object) -> float:
    """A number, also of the text of one, infinite where float32 would not hold it or the difference of two such; else NaN."""
    try:
        parsed = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except OverflowError:  # of a whole number
        return math.inf
    except ValueError:
        return math.nan
    return math.inf if abs(parsed) > LARGEST else parsed


def _present(row: Mapping[str, object], column: str) -> object:
    value = row.get(column)
    if value is None:
        raise RowError(f"'{column}' is null or missing; every row needs it. Fill it in or delete the row.")
    return value


def _described(value: object) -> str:
    shown = visible(_SHORT.repr(value))
    return f"{shown if len(shown) <= 40 else shown[:37] + '...'} ({type(value).__name__})"
