"""Whose answers are better: from comparisons of two answers to each prompt to a win rate.   P prompts"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import numpy as np

from alignkit.evaluation.intervals import Interval, bootstrap, wilson
from alignkit.evaluation.length_control import length_controlled
from alignkit.judges.bouts import Bout, Verdict


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
