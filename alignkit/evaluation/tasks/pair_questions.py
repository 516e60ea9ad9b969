"""Two answers of which one is better, as a question: what all benchmarks of preferences ask."""

from __future__ import annotations

from collections.abc import Mapping

from alignkit.data.examples import Message
from alignkit.data.questions import Question
from alignkit.data.rows import DroppedRow, RowError, items, messages, text

Prompt = str | tuple[Message, ...]


def pair(prompt: Prompt, chosen: str, rejected: str, *, group: str = "") -> Question:
    """The question whether an answer is better than another, which stands second.

    Raises:
        DroppedRow: when one of them is blank, or nothing but white space tells them apart.
    """
    bare = chosen.strip(), rejected.strip()
    if not all(bare):
        raise DroppedRow("empty")
    if bare[0] == bare[1]:
        raise DroppedRow("identical")
    return Question(prompt=prompt, candidates=(chosen, rejected), correct=(0,), group=group)


def asked(row: Mapping[str, object], column: str) -> tuple[Message, ...]:
    """The prompt in a column as a dialogue, so that a chat template applies: a text is the one turn of a user.

    Raises:
        RowError: when it is neither text nor messages.
    """
    return messages(row, column) if isinstance(row.get(column), list) else (Message(role="user", content=text(row, column)),)


def several_texts(row: Mapping[str, object], column: str, count: int) -> tuple[str, ...]:
    """So many texts in a column.

    Raises:
        RowError: when they are not as many, or one is no text.
    """
    found = items(row, column)
    if len(found) != count or not all(isinstance(one, str) for one in found):
        raise RowError(f"'{column}' holds {len(found)} elements; must be a list of {count} texts.")
    return tuple(map(str, found))


def label_of(row: Mapping[str, object], column: str, known: Mapping[str, bool | None]) -> bool:
    """Whether the first answer is the better one, by a label; numbers are compared as text.

    Raises:
        RowError: when the label is not `known`.
        DroppedRow: when it says that neither is better, which is None in `known`.
    """
    value = row.get(column)
    label = str(value)
    if isinstance(value, bool) or label not in known:
        raise RowError(f"'{column}' is {value!r}; must be one of {', '.join(known)}.")
    first = known[label]
    if first is None:
        raise DroppedRow("tie")
    return first
