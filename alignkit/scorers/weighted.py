"""`scorer=weighted`: several scorers at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from alignkit.errors import UserError
from alignkit.scorers.scorer import Answers, Scorer, ScorerKind, Scores, Surroundings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Weighted(ScorerKind):
    """The weighted sum of several scores, each of which is kept by its name:

    score = sum over parts of weight * (score of the part)
    """

    parts: Mapping[str, tuple[float, ScorerKind]]
    """By name: what the part's score is multiplied by, below 0 for what is to be avoided and 0 for what is only watched, and the
    settings of its scorer."""

    def open(self, surroundings: Surroundings) -> Scorer:
        return _WeightedScorer(parts={name: (weight, _opened(name, kind, surroundings)) for name, (weight, kind) in self.parts.items()})


def _opened(name: str, kind: ScorerKind, surroundings: Surroundings) -> Scorer:
    try:
        return kind.open(surroundings)
    except UserError as error:
        # A scorer names its fields `scorer.path`, wherever it stands.
        raise UserError(f"scorer.parts.{name}: {error}") from None


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class _WeightedScorer:
    """Open scorers with their weights."""

    parts: Mapping[str, tuple[float, Scorer]]

    def __call__(self, answers: Answers) -> Scores:
        said: dict[str, Tensor] = {name: scorer(answers).total for name, (_, scorer) in self.parts.items()}
        weighted = [weight * said[name] for name, (weight, _) in self.parts.items()]
        return Scores(total=torch.stack(weighted).sum(dim=0), parts=said)
