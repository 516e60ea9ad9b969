"""What a scorer made of the questions of a benchmark.   Q questions   K candidates of a question"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

from alignkit.data.questions import Question
from alignkit.errors import UserError
from alignkit.evaluation.scoring import ScoredQuestion
from alignkit.evaluation_settings import LOGP_SUM

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Graded:
    """Questions of one task with one scorer's scores of their candidates, higher is better."""

    questions: tuple[Question, ...]
    scores: tuple[Floats, ...]
    """Q arrays [K], finite."""
    lengths: tuple[Integers, ...]
    """Q arrays [K], tokens of each candidate."""
    log_probabilities: bool = False
    """Whether scores are summed log-probabilities, so that their exponentials are probabilities."""

    def __post_init__(self) -> None:
        assert len(self.questions) == len(self.scores) == len(self.lengths)
        assert all(np.isfinite(scores).all() for scores in self.scores)

    @property
    def credits(self) -> Floats:
        """[Q] in [0, 1]: whether a best-scored candidate is right; of several that share the best score, the share that is right.

        So a scorer that says the same of all candidates is as good as chance, wherever the right one stands.
        """
        return np.array(
            [np.isin(np.flatnonzero(own == own.max()), one.correct).mean() for one, own in zip(self.questions, self.scores, strict=True)],
            dtype=np.float64,
        )

    @property
    def predicted(self) -> Integers:
        """[Q] places of the best-scored candidates; the first of several that share the best score."""
        return np.array([int(own.argmax()) for own in self.scores], dtype=np.int64)

    @property
    def gold(self) -> Integers:
        """[Q] places of the right candidates, the first where several are."""
        return np.array([one.correct[0] for one in self.questions], dtype=np.int64)

    @property
    def values(self) -> Floats:
        """[Q] the numbers that places are estimates of, NaN where there is none."""
        return np.array([np.nan if one.value is None else one.value for one in self.questions], dtype=np.float64)

    @property
    def groups(self) -> tuple[str, ...]:
        """Q names, empty for none."""
        return tuple(one.group for one in self.questions)

    def take(self, places: Sequence[int] | Integers) -> Self:
        """Some of the questions, repeated ones as often."""
        return type(self)(
            questions=tuple(self.questions[place] for place in places),
            scores=tuple(self.scores[place] for place in places),
            lengths=tuple(self.lengths[place] for place in places),
            log_probabilities=self.log_probabilities,
        )


def grade(task: str, questions: Sequence[Question], scored: Sequence[ScoredQuestion], scorer: str) -> Graded:
    """What one scorer made of the questions of a task.

    Raises:
        UserError: where that is no finite number.
    """
    scores = tuple(np.array(one.by(scorer), dtype=np.float64) for one in scored)
    if wrong := sum(not np.isfinite(own).all() for own in scores):
        raise UserError(f"scorer = {scorer}: says what is no finite number of {wrong} of {len(scores)} questions of {task}.")
    return Graded(
        questions=tuple(questions),
        scores=scores,
        lengths=tuple(np.array(one.lengths, dtype=np.int64) for one in scored),
        log_probabilities=scorer == LOGP_SUM,
    )
