"""Who labels a world's examples: the gold reward, a taste for length, and chance."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from alignkit.data.examples import PreferenceExample
from alignkit.errors import check_range
from alignkit.lab.world import World, check_answers


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Annotator:
    """Reads `answers` completions of each prompt and ranks them: by gold, or for a share of the examples by length, and then by mistake.

    Mistakes are a Mallows model (Mallows 1957, Biometrika 44): a ranking has a chance in proportion to (noise / (1 - noise)) to the power
    of the pairs that it orders wrongly. So two completions that follow each other are swapped with chance `noise`, others less often; a
    pair is flipped with chance `noise`; and at 0.5 every order is as likely.

    Each label is a function of seed and index. Examples that are biased, or wrong, stay so at a larger share or more noise.
    """

    answers: int
    """Completions of each prompt, 1 to 8. With 1 there is nothing to rank."""
    noise: float
    """Chance in [0, 0.5] that completions next to each other are swapped."""
    length_bias: float
    """Share in [0, 1] of the examples where the longer completion is the better one, whatever it says."""
    seed: int

    def __post_init__(self) -> None:
        check_answers(self.answers)
        check_range("dataset.noise", self.noise, low=0.0, high=0.5, hint="It is the chance that a training label is flipped. Try 0.1.")
        hint = "It is the share of training labels that go by length. Try 0.5."
        check_range("dataset.length_bias", self.length_bias, low=0.0, high=1.0, hint=hint)

    def labelled(self, world: World, index: int) -> PreferenceExample:
        """A training example in the annotator's order. Margin and ratings are still those of the gold reward."""
        example = world.example(index, answers=self.answers)
        order = list(range(len(example.completions)))
        if random.Random(f"{self.seed}/length/{index}").random() < self.length_bias:
            order.sort(key=lambda place: _length(example.completions[place]), reverse=True)
        return _reordered(example, self._mistaken(order, index))

    def held_out(self, world: World, index: int) -> PreferenceExample:
        """A held-out example in gold's order."""
        return world.example(index, answers=self.answers, split="validation")

    def _mistaken(self, order: Sequence[int], index: int) -> list[int]:
        """Repeated insertion (Doignon, Pekec & Regenwetter 2004, Psychometrika 69): each item passes some of those before it."""
        rng = random.Random(f"{self.seed}/noise/{index}")
        mistaken = list(order[:1])
        for item in order[1:]:
            luck, passed = rng.random(), 0
            while passed < len(mistaken) and luck < self._chance_to_pass(passed + 1, len(mistaken)):
                passed += 1
            mistaken.insert(len(mistaken) - passed, item)
        return mistaken

    def _chance_to_pass(self, least: int, others: int) -> float:
        """That an item which belongs behind `others` comes before at least `least` of them."""
        weights = [self.noise**passed * (1 - self.noise) ** (others - passed) for passed in range(others + 1)]
        return sum(weights[least:]) / sum(weights)


def _length(completion: str) -> tuple[int, int]:
    """Words, as `scorer=length` counts them; of as many words, characters."""
    return len(completion.split()), len(completion)


def _reordered(example: PreferenceExample, order: Sequence[int]) -> PreferenceExample:
    return replace(
        example,
        completions=tuple(example.completions[place] for place in order),
        ratings={attribute: tuple(ratings[place] for place in order) for attribute, ratings in example.ratings.items()},
    )
