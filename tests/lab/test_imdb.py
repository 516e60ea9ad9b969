from __future__ import annotations

from collections import Counter

import pytest

from alignkit.lab.imdb import ImdbWorld, Review, cut


def reviews(*words: str, of: str = "film") -> tuple[Review, ...]:
    return tuple(Review(text=f"This {of} {place} is", continuation=f" {word}.") for place, word in enumerate(words))


TRAIN = reviews("good", "bad", "great", "awful", "superb", "terrible", "long", "fine")
WORLD = ImdbWorld(seed=0, train=TRAIN, validation=reviews("nice", "poor", of="book"))


def test_a_review_is_cut_into_its_first_words_and_what_follows() -> None:
    review = cut("I loved it.<br /><br />The cast  is\nsuperb. See it.", prompt_words=2, completion_words=50)
    assert review == Review(text="I loved", continuation=" it. The cast is superb. See it.")


def test_a_long_review_ends_where_a_sentence_does() -> None:
    text = 'One two three. Four five! "Six seven." Eight nine ten.'
    assert cut(text, prompt_words=2, completion_words=6).continuation == ' three. Four five! "Six seven."'
    assert cut(text, prompt_words=2, completion_words=4).continuation == " three. Four five!"
    assert cut(text, prompt_words=4, completion_words=2).continuation == " five!"


def test_where_no_sentence_ends_in_time_it_stops_in_the_middle() -> None:
    assert cut("one two three four five six", prompt_words=1, completion_words=3).continuation == " two three four"


def test_a_whole_review_that_fits_is_not_cut_at_a_full_stop() -> None:
    assert cut("A b c. d e", prompt_words=1, completion_words=4).continuation == " b c. d e"


def test_a_review_of_no_more_words_than_a_prompt_has_no_continuation() -> None:
    assert cut("just three words", prompt_words=3, completion_words=9).continuation == ""


def test_each_review_comes_once_before_one_comes_again() -> None:
    rounds = [[WORLD.prompt(index).text for index in range(first, first + 8)] for first in (0, 8)]
    assert rounds[0] == rounds[1]
    assert Counter(rounds[0]) == Counter(review.text for review in TRAIN)
    assert rounds[0] != [review.text for review in TRAIN]


def test_a_review_that_comes_again_has_other_company() -> None:
    assert any(WORLD.example(index) != WORLD.example(index + 8) for index in range(8))


def test_an_example_is_a_function_of_seed_split_and_index() -> None:
    other = ImdbWorld(seed=0, train=TRAIN, validation=WORLD.validation)
    assert [WORLD.example(index) for index in (3, 1)] == [other.example(index) for index in (1, 3)][::-1]
    assert [ImdbWorld(seed=1, train=TRAIN, validation=TRAIN[:1]).example(index) for index in range(8)] != [
        WORLD.example(index) for index in range(8)
    ]


def test_a_review_stands_beside_its_own_continuation_and_those_of_its_split() -> None:
    for split, known in (("train", TRAIN), ("validation", WORLD.validation)):
        own = {review.text: review.continuation for review in known}
        for index in range(20):
            example = WORLD.example(index, split=split)  # type: ignore[arg-type]
            assert own[str(example.prompt)] in example.completions
            assert set(example.completions) <= set(own.values())


def test_one_answer_is_the_review_itself() -> None:
    for index in range(8):
        example = WORLD.example(index, answers=1)
        assert str(example.prompt) + example.completions[0] == WORLD.text(index)
        assert WORLD.text(index) in {review.text + review.continuation for review in TRAIN}


def test_a_world_without_reviews_is_refused() -> None:
    with pytest.raises(ValueError, match="8 reviews to train on and 0 held out"):
        ImdbWorld(seed=0, train=TRAIN, validation=())
