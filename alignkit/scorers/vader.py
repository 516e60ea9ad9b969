"""`scorer=vader`: how positive a completion is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from alignkit.scorers.scorer import TextScorer
from alignkit.scorers.sentiment import compound


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Vader(TextScorer):
    """VADER's compound score of the completion, [-1, 1]; the prompt does not count. See `alignkit.scorers.sentiment`."""

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return [compound(completion) for completion in completions]
