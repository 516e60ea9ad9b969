from __future__ import annotations

import itertools

import pytest

from alignkit.lab.imdb import ImdbWorld, Review
from alignkit.lab.reviews import ReviewsWorld
from alignkit.lab.world import REDRAWS, World, ranked

FEW = tuple(
    Review(text=f"Film {place}", continuation=f" is {word}.") for place, word in enumerate(("good", "bad", "great", "awful", "fine"))
)
WORLDS: list[World] = [
    ReviewsWorld(seed=0),
    ReviewsWorld(seed=0, prompts="shifted"),
    ImdbWorld(seed=0, train=FEW, validation=FEW[::-1]),
]


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: type(world).__name__)
def test_a_world_gives_texts_prompts_and_answers_in_the_order_of_its_own_scores(world: World) -> None:
    for index in range(5):
        example = world.example(index, answers=3, split="validation")
        prompt = world.prompt(index, split="validation").text
        assert example.prompt == prompt
        assert not prompt.endswith(" ")
        assert list(example.ratings["overall"]) == world.score([prompt] * 3, example.completions)
        assert list(example.ratings["overall"]) == sorted(example.ratings["overall"], reverse=True)
        assert world.text(index, split="validation").startswith(prompt)
        assert world.example(index, answers=3, split="validation") == example


def test_the_first_draw_that_is_far_enough_from_all_others_is_taken() -> None:
    draws = iter([(0.0, "first"), (0.05, "near"), (0.5, "second"), (-0.08, "near again"), (0.45, "near the second"), (0.2, "third")])
    example = ranked("?", draws, 3)
    assert example.completions == ("second", "third", "first")
    assert example.ratings["overall"] == (0.5, 0.2, 0.0)
    assert example.margin == 0.5


def test_where_no_draw_is_far_enough_the_farthest_is_taken() -> None:
    draws = itertools.chain([(0.0, "first"), (0.01, "a"), (-0.06, "b"), (0.02, "c")], itertools.repeat((0.03, "d")))
    example = ranked("?", draws, 2)
    assert example.completions == ("first", "b")


def test_no_more_draws_are_made_than_allowed() -> None:
    made = itertools.count()
    ranked("?", ((0.0, str(next(made))) for _ in itertools.count()), 3)
    assert next(made) == 1 + 2 * REDRAWS
