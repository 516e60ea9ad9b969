from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from alignkit.data.examples import PreferenceExample
from alignkit.errors import UserError
from alignkit.lab.annotator import Annotator
from alignkit.lab.reviews import Prompt, ReviewsWorld
from alignkit.lab.world import Split


@dataclass(frozen=True)
class Alphabet:
    """Answers a, bb, ccc, ... to every prompt: the best is the shortest."""

    def prompt(self, index: int, *, split: Split = "train") -> Prompt:
        return ReviewsWorld(seed=0).prompt(index, split=split)

    def text(self, index: int, *, split: Split = "train") -> str:
        return f"{split} {index}"

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return [-float(len(completion)) for completion in completions]

    def example(self, index: int, *, answers: int = 2, split: Split = "train") -> PreferenceExample:
        completions = tuple(letter * place for place, letter in enumerate("abcdefgh"[:answers], start=1))
        return PreferenceExample(
            prompt=self.text(index, split=split), completions=completions, ratings={"overall": tuple(self.score(completions, completions))}
        )


def annotator(**settings: float) -> Annotator:
    return Annotator(**{"answers": 2, "noise": 0.0, "length_bias": 0.0, "seed": 0, **settings})  # type: ignore[arg-type]


def orders(labeller: Annotator, count: int) -> list[tuple[int, ...]]:
    """Places in gold's order, as the annotator ranks them."""
    return [tuple(len(text) - 1 for text in labeller.labelled(Alphabet(), index).completions) for index in range(count)]


def inversions(order: Sequence[int]) -> int:
    return sum(first > second for first, second in itertools.combinations(order, 2))


def test_without_noise_and_bias_gold_decides() -> None:
    assert set(orders(annotator(answers=5), 50)) == {(0, 1, 2, 3, 4)}


@pytest.mark.parametrize("noise", [0.1, 0.3, 0.5])
def test_rankings_are_as_frequent_as_mallows_says(noise: float) -> None:
    count = 6000
    weights = {order: (noise / (1 - noise)) ** inversions(order) for order in itertools.permutations(range(3))}
    found = Counter(orders(annotator(answers=3, noise=noise), count))
    for order, weight in weights.items():
        chance = weight / sum(weights.values())
        assert abs(found[order] - chance * count) < 4 * math.sqrt(count * chance * (1 - chance)), order


@pytest.mark.parametrize("answers", [2, 3, 5])
def test_neighbours_are_swapped_with_the_chance_that_noise_names(answers: int) -> None:
    count, noise = 4000, 0.2
    found = orders(annotator(answers=answers, noise=noise), count)
    for better in range(answers - 1):
        swapped = sum(order.index(better) > order.index(better + 1) for order in found)
        assert abs(swapped - noise * count) < 4 * math.sqrt(count * noise * (1 - noise))


def test_more_noise_makes_no_mistake_good() -> None:
    found = [[inversions(order) for order in orders(annotator(answers=4, noise=noise), 500)] for noise in (0.0, 0.1, 0.3, 0.5)]
    for fewer, more in itertools.pairwise(found):
        assert all(before <= after for before, after in zip(fewer, more, strict=True))
        assert sum(fewer) < sum(more)


def test_a_share_of_the_labels_goes_by_length_and_a_larger_share_holds_it() -> None:
    count = 3000
    some, more = ({i for i, order in enumerate(orders(annotator(length_bias=bias), count)) if order == (1, 0)} for bias in (0.3, 0.6))
    assert some < more
    assert abs(len(some) - 0.3 * count) < 4 * math.sqrt(count * 0.3 * 0.7)
    assert set(orders(annotator(answers=4, length_bias=1.0), 50)) == {(3, 2, 1, 0)}


def test_noise_comes_after_length() -> None:
    # All labels go by length, and a fifth of them are then flipped back to what gold says.
    found = Counter(orders(annotator(length_bias=1.0, noise=0.2), 4000))
    assert abs(found[0, 1] - 800) < 4 * math.sqrt(4000 * 0.2 * 0.8)


def test_bias_and_mistakes_hit_examples_independently() -> None:
    biased, wrong = (
        {i for i, order in enumerate(orders(labeller, 4000)) if order == (1, 0)}
        for labeller in (annotator(length_bias=0.5), annotator(noise=0.5))
    )
    assert abs(len(biased & wrong) - 1000) < 4 * math.sqrt(4000 * 0.25 * 0.75)


def test_ratings_stay_with_their_texts() -> None:
    example = annotator(answers=4, length_bias=1.0).labelled(Alphabet(), 0)
    assert example.completions == ("dddd", "ccc", "bb", "a")
    assert example.ratings["overall"] == (-4.0, -3.0, -2.0, -1.0)


def test_held_out_labels_are_those_of_gold() -> None:
    assert annotator(answers=3, noise=0.5, length_bias=1.0).held_out(Alphabet(), 5).completions == ("a", "bb", "ccc")


def test_of_as_many_words_more_characters_are_longer() -> None:
    @dataclass(frozen=True)
    class Words(Alphabet):
        def example(self, index: int, *, answers: int = 2, split: Split = "train") -> PreferenceExample:
            return PreferenceExample(prompt="", completions=("one two", "three", "a very small one", "seventeen"))

    example = annotator(answers=4, length_bias=1.0).labelled(Words(), 0)
    assert example.completions == ("a very small one", "one two", "seventeen", "three")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"answers": 0}, r"dataset\.answers = 0; must be a number in \[1, 8\]"),
        ({"answers": 9}, r"dataset\.answers = 9"),
        ({"noise": 0.6}, r"dataset\.noise = 0\.6; must be a number in \[0, 0\.5\]"),
        ({"length_bias": 1.5}, r"dataset\.length_bias = 1\.5; must be a number in \[0, 1\]"),
    ],
)
def test_a_setting_out_of_range_is_named(setting: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        annotator(**setting)
