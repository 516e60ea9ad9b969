"""`judge=scorer`, `gold`, `head`, `self`: a scorer of single answers, which knows no order."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from alignkit.judges.judge import Candidates, Judge, JudgeKind, Judgement, JudgeSurroundings
from alignkit.scorers.scorer import Scorer, ScorerKind


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ScorerJudge(JudgeKind):
    """Any scorer as a judge: the gold reward of a world, a reward model, a direct preference head, the implicit reward of a policy."""

    scorer: ScorerKind

    def open(self, surroundings: JudgeSurroundings) -> Judge:
        return _ScorerJudge(scorer=self.scorer.open(surroundings.scoring), surroundings=surroundings)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class _ScorerJudge:
    """An open scorer."""

    scorer: Scorer
    surroundings: JudgeSurroundings

    def __call__(self, asked: Sequence[Candidates]) -> list[Judgement]:
        examples = tuple(dataclasses.replace(one.example, key=place) for place, one in enumerate(asked))
        if not examples:
            return []
        scores = iter(self.scorer(self.surroundings.answers(examples)).total.tolist())
        return [Judgement(scores=tuple(_known(next(scores)) for _ in one.completions)) for one in asked]


def _known(score: float) -> float | None:
    return score if math.isfinite(score) else None
