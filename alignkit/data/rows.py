"""Typed access to one row of a table: what a source reads, checked where it is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final, get_args

from alignkit.data.examples import Message, Role
from alignkit.errors import did_you_mean

ROLES: tuple[str, ...] = get_args(Role)


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
    return value


def number(row: Mapping[str, object], column: str) -> float:
    """The finite number in a column; the cells of CSV files are text and are read as numbers.

    Raises:
        RowError: when it is null or not a finite number.
    """
    value = _present(row, column)
    try:
        parsed = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except ValueError:
        parsed = math.nan
    if not math.isfinite(parsed):
        raise RowError(f"'{column}' is {_described(value)}; must be a finite number.")
    return parsed


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
        raise RowError(f"{where} has the keys {', '.join(map(str, turn))}; must have role and content.")
    role, content = turn["role"], turn["content"]
    if role not in ROLES:
        raise RowError(f"{where} has the role {role!r}; must be one of {', '.join(ROLES)}.{did_you_mean(str(role), ROLES)}")
    if isinstance(content, list):
        raise RowError(f"{where}: content is a list of parts; must be text: images and other parts are not supported.")
    if not isinstance(content, str):
        raise RowError(f"{where}: content is {_described(content)}; must be text.")
    return Message(role=role, content=content)


def reply(dialogue: tuple[Message, ...], column: str) -> tuple[tuple[Message, ...], str]:
    """A dialogue as what came before its last turn, and what the assistant says in it.

    Raises:
        RowError: when somebody else has the last word.
    """
    last = dialogue[-1]
    if last.role != "assistant":
        raise RowError(f"'{column}' ends with a turn of the {last.role}; must end with the assistant's answer.")
    return dialogue[:-1], last.content


def _present(row: Mapping[str, object], column: str) -> object:
    value = row.get(column)
    if value is None:
        raise RowError(f"'{column}' is null or missing; every row needs it. Fill it in or delete the row.")
    return value


def _described(value: object) -> str:
    shown = repr(value)
    return f"{shown if len(shown) <= 40 else shown[:37] + '...'} ({type(value).__name__})"
