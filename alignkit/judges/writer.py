"""Language models that are asked something in words: one on this machine, or one behind an endpoint.   Q questions"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, final

from alignkit.data.examples import Message
from alignkit.judges.judge import JudgeKind, JudgeSurroundings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a language model wrote."""

    text: str
    """Without special tokens."""
    finished: bool
    """Whether it ended by itself and was not cut."""
    refused: str = ""
    """Why there is no reply and never will be, such as a question that is longer than the model; empty where there is one."""


class Writer(Protocol):
    """Whoever writes."""

    def __call__(self, questions: Sequence[tuple[Message, ...]]) -> list[Reply]:
        """[Q] replies to dialogues that end with a user's turn, in their order; the same question has the same reply.

        Raises:
            UserError: when one cannot be had.
        """
        ...


class WritingJudgeKind(JudgeKind):
    """The settings of a judge that is a language model: it can also be asked for other texts than judgements, such as critiques."""

    __slots__ = ()

    @abstractmethod
    def open_writer(self, surroundings: JudgeSurroundings, *, max_tokens: int | None = None) -> Writer:
        """The language model itself; `max_tokens` of its longest reply, None for as many as judgements may have.

        Raises:
            UserError: when it cannot be had.
        """
