"""`judge=labels`: the data's own labels: an annotator who has looked at all of them already, such as that of an experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from alignkit.errors import UserError
from alignkit.judges.judge import Candidates, Judge, JudgeKind, Judgement, JudgeSurroundings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Labels(JudgeKind):
    """Says of answers that come from a data set what its labels say, mistakes included. It knows nothing of samples of a model."""

    def open(self, surroundings: JudgeSurroundings) -> Judge:
        return judge_by_ranks


def judge_by_ranks(asked: Sequence[Candidates]) -> list[Judgement]:
    """Scores are ranks from the worst: the best has the highest, and equal ranks are equal.

    Raises:
        UserError: for answers that nobody has ranked.
    """
    return [Judgement(scores=tuple(float(-rank) for rank in ranks_of(one))) for one in asked]


def ranks_of(one: Candidates) -> tuple[int, ...]:
    """[M] ranks, 0 is best. Raises UserError where there are none."""
    ranks = one.example.ranks
    if len(ranks) != len(one.completions):
        raise UserError(
            f"judge = 'labels' says what the labels of a data set say, and these answers have none: {one.completions[0][:60]!r}. Type "
            "candidates=dataset:train, or another judge."
        )
    return ranks
