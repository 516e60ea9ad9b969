"""The gold reward of the reviews world: how positive a completion is, by VADER. It is that of `scorer=vader`, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from alignkit.scorers.sentiment import compound


@final
@dataclass(frozen=True, slots=True)
class GoldReward:
    """VADER's compound score of the completion, see `alignkit.scorers.sentiment`. The prompt does not count."""

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """One number in [-1, 1] for each completion, 0 where it has no word of sentiment; rounded by VADER to 1e-4.

        Raises:
            ValueError: when there are not as many prompts as completions.
        """
        if len(prompts) != len(completions):
            raise ValueError(f"{len(prompts)} prompts for {len(completions)} completions; each completion needs its prompt.")
        return [compound(completion) for completion in completions]
