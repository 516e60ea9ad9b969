"""`dataset=reviews`: preference pairs from the embedded reviews world. Offline, nothing to download.

The one module of this floor that imports from `alignkit.lab`: the world is itself a source of data, made and not read.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import final

from alignkit.data.examples import PreferenceExample
from alignkit.errors import check_range
from alignkit.lab.reviews import ReviewsWorld


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Reviews:
    """Pairs of film reviews; the gold reward chooses, and then chance overrules it for a share of the training pairs."""

    pairs: int
    """Pairs generated for training, >= 1."""
    noise: float
    """Chance in [0, 0.5] that a training label is flipped; at 0.5 labels say nothing. Held-out labels are clean."""
    world_seed: int
    """Of the generated texts and labels, >= 0."""

    def __post_init__(self) -> None:
        check_range("dataset.pairs", self.pairs, low=1, hint="It is the number of training pairs. Try 2000.")
        check_range("dataset.noise", self.noise, low=0.0, high=0.5, hint="It is the chance that a training label is flipped. Try 0.1.")
        check_range("dataset.world_seed", self.world_seed, low=0)

    def train(self) -> list[PreferenceExample]:
        """`pairs` examples. Their margin is the gap of the gold scores, whether or not the label is flipped; ratings are never flipped.

        The first n are the same for every larger `pairs`, and a pair that is flipped stays flipped at more noise.
        """
        world = ReviewsWorld(seed=self.world_seed)
        return [self._labelled(index, world.pair(index)) for index in range(self.pairs)]

    def validation(self, count: int) -> list[PreferenceExample]:
        """`count` examples of other films, with clean labels."""
        world = ReviewsWorld(seed=self.world_seed)
        return [world.pair(index, split="validation") for index in range(count)]

    def _labelled(self, index: int, example: PreferenceExample) -> PreferenceExample:
        if random.Random(f"{self.world_seed}/noise/{index}").random() >= self.noise:
            return example
        chosen, rejected = example.completions
        ratings = {attribute: (high, low)[::-1] for attribute, (high, low) in example.ratings.items()}
        return replace(example, completions=(rejected, chosen), ratings=ratings)
