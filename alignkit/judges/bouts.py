"""Two answers to one prompt, and which of them is better.   P prompts"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias, final

from alignkit.data.examples import Message


@final
class Verdict(Enum):
    """Of two answers to one prompt; the value is the credit of the first."""

    WIN = 1.0
    TIE = 0.5
    LOSS = 0.0

    @property
    def opposite(self) -> Verdict:
        """The same as the other side sees it."""
        return Verdict(1.0 - self.value)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What one side said."""

    text: str
    tokens: int
    """Its end included; both sides by one tokenizer."""
    score: float | None = None
    """Higher is better; None where nobody scores single answers."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Bout:
    """Two answers to one prompt."""

    prompt: str | tuple[Message, ...]
    ours: Answer
    theirs: Answer

    @property
    def swapped(self) -> Bout:
        """The same with the answers in the other order."""
        return Bout(prompt=self.prompt, ours=self.theirs, theirs=self.ours)

    @property
    def longer_by(self) -> int:
        """Tokens that ours has more than theirs."""
        return self.ours.tokens - self.theirs.tokens


Comparer: TypeAlias = Callable[[Sequence[Bout]], Sequence[Verdict]]
"""Whoever compares answers: of each bout the verdict on `ours`, which is shown first."""


def by_score(bouts: Sequence[Bout]) -> list[Verdict]:
    """The judge that a scorer of single answers is: the higher score wins, equal scores tie. It knows no order."""
    verdicts = []
    for bout in bouts:
        ours, theirs = bout.ours.score, bout.theirs.score
        assert ours is not None, "nobody scores"
        assert theirs is not None, "nobody scores"
        verdicts.append(Verdict.WIN if ours > theirs else Verdict.LOSS if ours < theirs else Verdict.TIE)
    return verdicts


def in_both_orders(comparer: Comparer, bouts: Sequence[Bout]) -> list[Verdict]:
    """Verdicts [P] of a judge that is asked twice, each answer once shown first; one that does not say the same both times has not told the
    answers apart, which is a tie: the conservative rule of Zheng et al. 2023 (arXiv:2306.05685, section 3.4)."""
    straight, other = comparer(bouts), comparer([bout.swapped for bout in bouts])
    return [one if one is swapped.opposite else Verdict.TIE for one, swapped in zip(straight, other, strict=True)]
