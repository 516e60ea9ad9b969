"""Any file of preferences or demonstrations."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.examples import Message, PreferenceExample
from alignkit.data.rows import DroppedRow, RowError, messages, number, reply, text
from alignkit.data.source import RowSource
from alignkit.errors import UserError, check_choice

_NAMES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt",),
    "chosen": ("chosen", "completion", "text", "messages"),
    "rejected": ("rejected",),
    "margin": ("margin",),
}
"""Names that a column goes by when it is not mapped, in the order they are looked for."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Local(RowSource):
    """A file with the columns `prompt`, `chosen`, `rejected` and, if there are ratings, `margin`; `prompt` and `rejected` may be absent.

    - Text: `{"prompt": "1+1?", "chosen": " 2", "rejected": " 3"}`; prompt and completion are joined as they stand.
    - Chat: lists of `{"role", "content"}`; chosen and rejected are whole dialogues or the last turn only. A text as the prompt of a
      chat is one user turn.
    - Without a prompt it is what chosen and rejected have in common: the messages before the last, or the text up to the last white
      space at which both break, which stays with the completion.
    - Without rejected each row is a demonstration for supervised fine-tuning; chosen may be called `completion`, `text` (all of it is
      the completion) or `messages`.
    """

    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("chosen",), ("prompt", "chosen", "rejected"))

    columns: dict[str, str]
    """Column names by what they hold (`prompt`, `chosen`, `rejected`, `margin`), for those that are called something else."""

    def __post_init__(self) -> None:
        for field, column in self.columns.items():
            check_choice("dataset.columns", field, _NAMES)
            if not isinstance(column, str) or not column:
                raise UserError(f"dataset.columns.{field} = {column!r}; must be the name of a column of the file.")
        taken = list(self.columns.values())
        for field, column in self.columns.items():
            if taken.count(column) > 1:
                raise UserError(f"dataset.columns.{field} = {column!r} is given twice; each must name a column of its own.")

    def missing(self, found: Collection[str]) -> tuple[str, ...]:
        """Mapped columns that are not there, `chosen`, and those that seem to be there under a misspelt name."""
        gaps = [column for column in self.columns.values() if column not in found]
        used = {self._column(field, found) for field in _NAMES}
        free = [column for column in found if column not in used]
        for field in _NAMES:
            if self._column(field, found) is None and (field == "chosen" or difflib.get_close_matches(field, free, cutoff=0.85)):
                gaps.append(field)
        return tuple(gaps)

    def to_examples(self, row: Mapping[str, object]) -> list[PreferenceExample]:
        """One pair, or one demonstration."""
        margin = self._column("margin", row)
        sides = [side for field in ("chosen", "rejected") if (side := self._column(field, row)) is not None]
        prompt = self._column("prompt", row)
        chats = [isinstance(row[side], list) for side in sides]
        if any(chats) and not all(chats):
            text(row, sides[chats.index(False)])
            raise RowError(f"{' and '.join(map(repr, sides))} are a text and a list of messages; both must be of one kind.")
        context, completions = _chat(row, prompt, sides) if all(chats) else _text(row, prompt, sides)
        return [PreferenceExample(prompt=context, completions=completions, margin=0.0 if margin is None else number(row, margin))]

    def _column(self, field: str, found: Collection[str]) -> str | None:
        if field in self.columns:
            return self.columns[field]
        return next((name for name in _NAMES[field] if name in found), None)


def _text(row: Mapping[str, object], prompt: str | None, sides: list[str]) -> tuple[str | tuple[Message, ...], tuple[str, ...]]:
    completions = tuple(text(row, side) for side in sides)
    if prompt is not None:
        return messages(row, prompt) if isinstance(row[prompt], list) else text(row, prompt), completions
    if len(completions) == 1:
        return "", completions
    length = _shared_length(*completions)
    if length == 0:
        raise DroppedRow("prompt_mismatch")
    return completions[0][:length], tuple(completion[length:] for completion in completions)


def _shared_length(one: str, two: str) -> int:
    """Characters of the common beginning of two texts, cut back to where white space begins in both."""
    common = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    for end in range(common, 0, -1):
        if all(end < len(side) and side[end].isspace() and not side[end - 1].isspace() for side in (one, two)):
            return end
    return 0


def _chat(row: Mapping[str, object], prompt: str | None, sides: list[str]) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    replies = [reply(messages(row, side), side) for side in sides]
    contexts = [
        context if prompt is None else _context(row, prompt, context, side) for (context, _), side in zip(replies, sides, strict=True)
    ]
    if not contexts[0]:
        raise RowError(f"'{sides[0]}' holds the answer only, and there is no column 'prompt'; a chat must begin with a question.")
    if any(context != contexts[0] for context in contexts):
        raise DroppedRow("prompt_mismatch")
    return contexts[0], tuple(answer for _, answer in replies)


def _context(row: Mapping[str, object], prompt: str, context: tuple[Message, ...], side: str) -> tuple[Message, ...]:
    """The prompt of one side, told by the prompt's column and, in whole dialogues, by the turns before the answer."""
    if isinstance(row[prompt], list):
        given = messages(row, prompt)
        if context not in ((), given):
            raise RowError(
                f"'{side}' does not begin with the messages of '{prompt}', followed by one answer; must repeat them or leave them out."
            )
        return given
    question = text(row, prompt)
    if context and question not in [message.content for message in context]:
        raise RowError(f"'{side}' does not hold the text of '{prompt}' before its answer; must repeat it or leave it out.")
    return context or (Message(role="user", content=question),)
