"""The IMDB world: real reviews, cut into the words that begin them and those that go on, whose true reward is known."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import final

from alignkit.data.examples import PreferenceExample
from alignkit.lab.gold import GoldReward
from alignkit.lab.world import Split, ranked

_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_END = re.compile(r"[.!?][\"')\]]*$")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Review:
    """The beginning of a review, and how its writer went on."""

    text: str
    """The first words, without a space at the end."""
    continuation: str
    """Starts with the space that parts it from the beginning; empty where a review has no more words."""


def cut(text: str, *, prompt_words: int, completion_words: int) -> Review:
    """A review without its line breaks, `<br />` included, in two parts.

    The continuation goes to the last end of a sentence within `completion_words`, or as far as that where there is none: a text that is
    learnt from should end where people end.
    """
    words = _BREAK.sub(" ", text).split()
    rest = words[prompt_words : prompt_words + completion_words]
    ends = [place for place, word in enumerate(rest, start=1) if _END.search(word)]
    shown = rest if len(words) <= prompt_words + completion_words or not ends else rest[: ends[-1]]
    return Review(text=" ".join(words[:prompt_words]), continuation="".join(f" {word}" for word in shown))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ImdbWorld:
    """Prompts are beginnings of reviews, completions their own continuation and those of other reviews; a `World`.

    An example is a review of its split, each of them once before one comes again with others beside it. Rafailov et al. 2023
    (arXiv:2305.18290), section 6, begin with 2 to 8 tokens and ask a classifier; here VADER's score of the completion is the truth.

    Raises:
        ValueError: where a split has no review.
    """

    seed: int
    """Of the order of the reviews and of the draws from them."""
    train: Sequence[Review]
    validation: Sequence[Review]
    """None begins as one of `train` does."""

    def __post_init__(self) -> None:
        if not self.train or not self.validation:
            raise ValueError(f"{len(self.train)} reviews to train on and {len(self.validation)} held out; both must be at least 1.")

    def prompt(self, index: int, *, split: Split = "train") -> Review:
        """The review of example `index`, of which the prompt is the beginning."""
        reviews = self.reviews(split)
        return reviews[_order(self.seed, split, len(reviews))[index % len(reviews)]]

    def text(self, index: int, *, split: Split = "train") -> str:
        """The review itself."""
        review = self.prompt(index, split=split)
        return review.text + review.continuation

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        """The gold reward of each completion."""
        return GoldReward().score(prompts, completions)

    def example(self, index: int, *, answers: int = 2, split: Split = "train") -> PreferenceExample:
        """Its own continuation and others of its split, the one with the highest gold reward first; see `World.example`."""
        review = self.prompt(index, split=split)
        return ranked(review.text, self._draws(review, index, split), answers)

    def reviews(self, split: Split) -> Sequence[Review]:
        """Those of a split, as they were given."""
        return self.validation if split == "validation" else self.train

    def _draws(self, review: Review, index: int, split: Split) -> Iterator[tuple[float, str]]:
        rng, others = random.Random(f"{self.seed}/{split}/{index}"), self.reviews(split)
        while True:
            yield _gold(review.continuation), review.continuation
            review = rng.choice(others)


@lru_cache(maxsize=8)
def _order(seed: int, split: Split, reviews: int) -> Sequence[int]:
    return random.Random(f"{seed}/{split}").sample(range(reviews), reviews)


@lru_cache(maxsize=1 << 16)
def _gold(completion: str) -> float:
    # A continuation stands beside many others, and VADER takes a millisecond for sixty words.
    return GoldReward().score([""], [completion])[0]
