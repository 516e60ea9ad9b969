"""`dataset=reviews_unpaired`: the reviews world where each answer has a thumb up or down, and nobody compared two of them."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import final

from alignkit.data.examples import PreferenceExample
from alignkit.data.sources.reviews import Reviews
from alignkit.errors import check_range


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ReviewsUnpaired:
    """One side of each pair of `dataset=reviews`: the chosen completion as desirable or the rejected one as not."""

    labels: int
    """Completions generated for training, >= 1."""
    desirable_share: float
    """Chance in (0, 1) that a completion is the chosen one of its pair."""
    noise: float
    """Chance in [0, 0.5] that a label is wrong: the pair was flipped before one of it was taken. Held-out labels are clean."""
    world_seed: int
    """Of the generated texts and labels, >= 0."""

    def __post_init__(self) -> None:
        check_range("dataset.labels", self.labels, low=1, hint="It is the number of training completions. Try 2000.")
        hint = "It is how many completions are desirable. Try 0.5."
        check_range("dataset.desirable_share", self.desirable_share, above=0.0, below=1.0, hint=hint)
        self._pairs()

    def train(self) -> list[PreferenceExample]:
        """`labels` examples of one completion.

        The first n are the same for every larger `labels`, and one that is desirable stays so at a larger `desirable_share`.
        """
        return [self._one(index, pair) for index, pair in enumerate(self._pairs().train())]

    def validation(self, count: int) -> list[PreferenceExample]:
        """`count` pairs of other films, with clean labels: those of `dataset=reviews`."""
        return self._pairs().validation(count)

    def _one(self, index: int, pair: PreferenceExample) -> PreferenceExample:
        desirable = random.Random(f"{self.world_seed}/desirable/{index}").random() < self.desirable_share
        side = slice(0, 1) if desirable else slice(1, 2)
        ratings = {attribute: of_both[side] for attribute, of_both in pair.ratings.items()}
        return replace(pair, completions=pair.completions[side], margin=0.0, ratings=ratings, desirable=(desirable,))

    def _pairs(self) -> Reviews:
        return Reviews(
            pairs=self.labels,
            answers=2,
            noise=self.noise,
            length_bias=0.0,
            prompts="usual",
            validation_prompts="usual",
            world_seed=self.world_seed,
        )
