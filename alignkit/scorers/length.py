"""`scorer=length`: how near a completion is to a number of words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from alignkit.errors import check_range
from alignkit.scorers.scorer import TextScorer


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Length(TextScorer):
    """Minus the distance of the completion's number of words from the target: 0 is best. Words are what white space parts."""

    target: int
    """Words, >= 0."""

    def __post_init__(self) -> None:
        check_range("scorer.target", self.target, low=0)

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return [-float(abs(len(completion.split()) - self.target)) for completion in completions]
