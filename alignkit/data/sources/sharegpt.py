"""Dialogues in the form of ShareGPT, with or without feedback."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.examples import Message, PreferenceExample, Role
from alignkit.data.rows import DroppedRow, RowError, items, text, truths
from alignkit.data.source import RowSource
from alignkit.errors import did_you_mean

_ROLES: Mapping[str, Role] = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
_LABELS = ("kto_tag", "label")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ShareGPT(RowSource):
    """`conversations` = [{from, value}, ...] by `system`, `human` and `gpt`, as LLaMA-Factory and others read them.

    - With `chosen` and `rejected` = {from, value}: a pair of next turns.
    - Else the last turn is the answer: a demonstration, or with `kto_tag` or `label` one that is desirable or not.

    A column `system` is a first turn.
    """

    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("conversations",), ("conversations", "chosen", "rejected"))

    def to_examples(self, row: Mapping[str, object]) -> list[PreferenceExample]:
        """One pair, demonstration or labelled answer."""
        turns = [_message(turn, f"'conversations', turn {place}") for place, turn in enumerate(items(row, "conversations"), start=1)]
        if row.get("system"):
            turns.insert(0, Message(role="system", content=text(row, "system")))
        if "chosen" in row or "rejected" in row:
            answers = [_message(row.get(side), f"'{side}'") for side in ("chosen", "rejected")]
        else:
            answers = [turns.pop()]
        if any(answer.role != "assistant" for answer in answers):
            raise DroppedRow("no_reply")
        label = next((column for column in _LABELS if row.get(column) is not None), None)
        desirable = truths(row, label, 1) if label is not None and len(answers) == 1 else ()
        completions = tuple(answer.content for answer in answers)
        return [PreferenceExample(prompt=tuple(turns), completions=completions, desirable=desirable)]


def _message(turn: object, where: str) -> Message:
    if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str) or "from" not in turn:
        raise RowError(f"{where} must be an object with from and value, both text.")
    speaker = str(turn["from"])
    if speaker not in _ROLES:
        raise RowError(f"{where} is from {speaker!r}; must be from one of {', '.join(_ROLES)}.{did_you_mean(speaker, _ROLES)}")
    return Message(role=_ROLES[speaker], content=turn["value"])
