"""Any file of preferences, rankings, labels, ratings or demonstrations."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

from alignkit.data.examples import OVERALL, Message, PreferenceExample
from alignkit.data.forms import ranks_of
from alignkit.data.rows import DroppedRow, RowError, items, messages, number, numbers, numbers_or_nan, reply, text, truths
from alignkit.data.source import RowSource
from alignkit.errors import UserError, check_choice

_NAMES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt",),
    "chosen": ("chosen", "completion", "text", "messages"),
    "rejected": ("rejected",),
    "completions": ("completions",),
    "margin": ("margin",),
    "scores": ("scores",),
    "ranks": ("ranks",),
    "label": ("label",),
    "chosen_rating": ("chosen_rating",),
    "rejected_rating": ("rejected_rating",),
}
"""Names that a column goes by when it is not mapped, in the order they are looked for."""
_MISSPELT = ("prompt", "chosen", "rejected", "margin")
"""What is looked for under a misspelt name; the others are near to each other, and to what files hold beside."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Local(RowSource):
    """A file with the columns `prompt`, `chosen` and `rejected`, or with some of those below.

    - Text: `{"prompt": "1+1?", "chosen": " 2", "rejected": " 3"}`; prompt and completion are joined as they stand.
    - Chat: lists of `{"role", "content"}`; chosen and rejected are whole dialogues or the last turn only. A text as the prompt of a
      chat is one user turn.
    - Without a prompt it is what chosen and rejected have in common: the messages before the last, or the text up to the last white
      space at which both break, which stays with the completion.
    - Without rejected each row is a demonstration for supervised fine-tuning; chosen may be called `completion`, `text` (all of it is
      the completion) or `messages`. With a `label`, true or false, it is an answer that is desirable or not.
    - Several answers: `{"prompt": "1+1?", "completions": [" 2", " 3", " 4"], "scores": [5, 1, 1]}`, with `scores` (the attribute
      `overall`; higher is better, equal is a tie), `ranks` (lower is better), a list as `label`, or else best first.
    - A pair's `margin`, or `chosen_rating` and `rejected_rating` (the attribute `overall`), of which it is the difference.
    - Ratings of other attributes are columns that `dataset.ratings` names: one number, or a list with one a completion; null is missing.
    """

    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("chosen",), ("prompt", "chosen", "rejected"), ("prompt", "completions"))

    columns: dict[str, str]
    """Column names by what they hold (`prompt`, `chosen`, `scores`, ...), for those that are called something else."""
    ratings: list[str]
    """Columns that hold ratings of the completions, each an attribute of that name."""

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
        """Mapped columns that are not there, `chosen` where there are no `completions` either, and those that seem to be there under a
        misspelt name."""
        gaps = [column for column in (*self.columns.values(), *self.ratings) if column not in found]
        used = {self._column(field, found) for field in _NAMES} | set(self.ratings)
        free = [column for column in found if column not in used]
        several = self._column("completions", found) is not None
        for field in _MISSPELT:
            needed = field == "chosen" and not several
            if self._column(field, found) is None and (needed or difflib.get_close_matches(field, free, cutoff=0.85)):
                gaps.append(field)
        return tuple(gaps)

    def to_examples(self, row: Mapping[str, object]) -> list[PreferenceExample]:
        """One pair, one demonstration, one labelled answer or one list of answers."""
        several = self._column("completions", row)
        if several is None:
            sides = [side for field in ("chosen", "rejected") if (side := self._column(field, row)) is not None]
        else:
            answers = {f"{several}, element {place}": answer for place, answer in enumerate(items(row, several), start=1)}
            row, sides = {**row, **answers}, list(answers)
        prompt = self._column("prompt", row)
        chats = [isinstance(row[side], list) for side in sides]
        if any(chats) and not all(chats):
            text(row, sides[chats.index(False)])
            raise RowError(f"{' and '.join(map(repr, sides))} are a text and a list of messages; both must be of one kind.")
        context, completions = _chat(row, prompt, sides) if all(chats) else _text(row, prompt, sides)
        example = PreferenceExample(prompt=context, completions=completions)
        return [self._with_feedback(row, example, several=several is not None)]

    def _with_feedback(self, row: Mapping[str, object], example: PreferenceExample, *, several: bool) -> PreferenceExample:
        count = len(example.completions)
        rated = {attribute: numbers_or_nan(row, attribute, count) for attribute in self.ratings}
        ranks: tuple[int, ...] = ()
        margin = 0.0
        columns = {field: self._column(field, row) for field in _NAMES}
        both = (columns["chosen_rating"], columns["rejected_rating"])
        if several and columns["scores"] is not None:
            scores = numbers(row, columns["scores"], count)
            rated[OVERALL], ranks, margin = scores, ranks_of(scores), max(scores) - min(scores)
        elif count == 2 and not several and both[0] is not None and both[1] is not None:
            rated[OVERALL] = number(row, both[0]), number(row, both[1])
            margin = rated[OVERALL][0] - rated[OVERALL][1]
        if several and columns["ranks"] is not None:
            ranks = ranks_of([-rank for rank in numbers(row, columns["ranks"], count)])
        desirable = self._labels(row, columns["label"], count) if several or count == 1 else ()
        if several and desirable and not ranks:
            ranks = ranks_of(desirable)
        if columns["margin"] is not None:
            margin = number(row, columns["margin"])
        return replace(example, margin=margin, ranks=ranks, desirable=desirable, ratings=rated)

    def _labels(self, row: Mapping[str, object], column: str | None, count: int) -> tuple[bool, ...]:
        """Labels; numbers in a column that merely happens to be called `label` are classes of something."""
        if column is None or (column not in self.columns.values() and not _is_truth(row[column])):
            return ()
        return truths(row, column, count)

    def _column(self, field: str, found: Collection[str]) -> str | None:
        if field in self.columns:
            return self.columns[field]
        for name in _NAMES[field]:  # asked of every row, a dozen times
            if name in found:
                return name
        return None


def _is_truth(value: object) -> bool:
    values = value if isinstance(value, list) else [value]
    return all(isinstance(one, bool) or (isinstance(one, str) and one.lower() in ("true", "false")) for one in values)


def _text(row: Mapping[str, object], prompt: str | None, sides: list[str]) -> tuple[str | tuple[Message, ...], tuple[str, ...]]:
    completions = tuple(text(row, side) for side in sides)
    if prompt is not None:
        return _asking(messages(row, prompt)) if isinstance(row[prompt], list) else text(row, prompt), completions
    if len(completions) == 1:
        return "", completions
    length = _shared_length(completions)
    if length == 0:
        raise DroppedRow("prompt_mismatch")
    return completions[0][:length], tuple(completion[length:] for completion in completions)


def _shared_length(texts: Sequence[str]) -> int:
    """Characters of the common beginning of texts, cut back to where white space begins in all of them."""
    shortest = min(map(len, texts))
    common = next((i for i, characters in enumerate(zip(*texts, strict=False)) if len(set(characters)) > 1), shortest)
    for end in range(common, 0, -1):
        if all(end < len(side) and side[end].isspace() and not side[end - 1].isspace() for side in texts):
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
    return _asking(contexts[0]), tuple(answer for _, answer in replies)


def _asking(context: tuple[Message, ...]) -> tuple[Message, ...]:
    """A dialogue, if the user has the last word in it."""
    if context[-1].role != "user":
        raise DroppedRow("no_question")
    return context


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
