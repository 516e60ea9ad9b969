"""Whose answers are better: from comparisons of two answers to each prompt to a win rate.   P prompts"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Self, TypeAlias, final

import numpy as np

from alignkit.data.examples import Message
from alignkit.evaluation.intervals import Interval, bootstrap, wilson
from alignkit.evaluation.length_control import length_controlled


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


Judge: TypeAlias = Callable[[Sequence[Bout]], Sequence[Verdict]]
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


def in_both_orders(judge: Judge, bouts: Sequence[Bout]) -> list[Verdict]:
    """Verdicts [P] of a judge that is asked twice, each answer once shown first; one that does not say the same both times has not told the
    answers apart, which is a tie: the conservative rule of Zheng et al. 2023 (arXiv:2306.05685, section 3.4)."""
    straight, other = judge(bouts), judge([bout.swapped for bout in bouts])
    return [one if one is swapped.opposite else Verdict.TIE for one, swapped in zip(straight, other, strict=True)]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class WinRate:
    """How often our answers win, a tie counting one half."""

    wins: int
    ties: int
    losses: int
    rate: Interval
    """(wins + ties / 2) / P, with Wilson's interval."""
    length_controlled: Interval
    """What it would be if both answers had the same length: see `alignkit.evaluation.length_control`."""
    tokens: tuple[float, float]
    """Mean lengths, ours and theirs."""
    scores: tuple[float, float] | None
    """Mean scores, ours and theirs; None where single answers have none."""

    @classmethod
    def of(cls, bouts: Sequence[Bout], verdicts: Sequence[Verdict], *, resamples: int, seed: int) -> Self:
        """The win rate of P >= 1 bouts, one for each prompt; `resamples` and `seed` are those of the bootstrap that the length-controlled
        one's interval comes from."""
        assert 0 < len(bouts) == len(verdicts)
        credits = np.array([verdict.value for verdict in verdicts])
        differences = np.array([bout.longer_by for bout in bouts])
        counts = Counter(verdicts)
        scores = [(bout.ours.score, bout.theirs.score) for bout in bouts]
        return cls(
            wins=counts[Verdict.WIN],
            ties=counts[Verdict.TIE],
            losses=counts[Verdict.LOSS],
            rate=wilson(float(credits.sum()), len(bouts)),
            length_controlled=bootstrap(length_controlled(credits, differences), len(bouts), resamples=resamples, seed=seed),
            tokens=(_mean([bout.ours.tokens for bout in bouts]), _mean([bout.theirs.tokens for bout in bouts])),
            scores=None
            if any(None in both for both in scores)
            else (_mean([ours for ours, _ in scores]), _mean([own for _, own in scores])),
        )


def _mean(numbers: Sequence[float | None]) -> float:
    return float(np.mean([number for number in numbers if number is not None]))
