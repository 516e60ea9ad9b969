"""`dataset=reviews`: preferences from the embedded reviews world. Offline, nothing to download.

With `imdb` one of the two modules of this floor that import from `alignkit.lab`: a world is itself a source of data, made and not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from alignkit.data.examples import PreferenceExample
from alignkit.errors import check_choice, check_range
from alignkit.lab.annotator import Annotator
from alignkit.lab.reviews import STYLES, ReviewsWorld


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Reviews:
    """Film reviews ranked by the gold reward; then length and chance overrule it for a share of the training examples."""

    pairs: int
    """Examples generated for training, >= 1."""
    answers: int
    """Completions of each, 1 to 8: 2 are a pair, more are a ranking, 1 is a text for `loss=sft`."""
    noise: float
    """Chance in [0, 0.5] that a training label is flipped; at 0.5 labels say nothing. Held-out labels are clean."""
    length_bias: float
    """Share in [0, 1] of training labels that prefer the longer completion whatever it says. Held-out labels never do."""
    prompts: str
    """`usual` or `shifted`: of training prompts."""
    validation_prompts: str
    """`usual` or `shifted`: of held-out prompts."""
    world_seed: int
    """Of the generated texts and labels, >= 0."""

    def __post_init__(self) -> None:
        check_range("dataset.pairs", self.pairs, low=1, hint="It is the number of training examples. Try 2000.")
        check_range("dataset.world_seed", self.world_seed, low=0)
        check_choice("dataset.prompts", self.prompts, STYLES)
        check_choice("dataset.validation_prompts", self.validation_prompts, STYLES)
        self._annotator()

    def train(self) -> list[PreferenceExample]:
        """`pairs` examples. Margin and ratings are those of the gold scores, whatever the label is.

        The first n are the same for every larger `pairs`, and a pair that is flipped stays flipped at more noise.
        """
        world, annotator = ReviewsWorld(seed=self.world_seed, prompts=self.prompts), self._annotator()
        return [annotator.labelled(world, index) for index in range(self.pairs)]

    def validation(self, count: int) -> list[PreferenceExample]:
        """`count` examples of other films, with clean labels."""
        world, annotator = ReviewsWorld(seed=self.world_seed, prompts=self.validation_prompts), self._annotator()
        return [annotator.held_out(world, index) for index in range(count)]

    def _annotator(self) -> Annotator:
        return Annotator(answers=self.answers, noise=self.noise, length_bias=self.length_bias, seed=self.world_seed)
