"""Distinct-n and self-BLEU: by hand, and against what they are made of."""

from __future__ import annotations

import math

import pytest

from alignkit.evaluation.cost_measures import DISTINCT_1, DISTINCT_2, SELF_BLEU, SELF_BLEU_ACROSS
from alignkit.evaluation.estimates import Estimate
from alignkit.evaluation.variety import GROUP, distinct, self_bleu, variety
from alignkit.metrics import DISTINCT_1 as LOGGED_1
from alignkit.metrics import DISTINCT_2 as LOGGED_2
from alignkit.modules.held_out import distinctness

SAMPLES = [["a b a", "b c"], ["a d", ""], ["A b", "e e e f"]]


def test_different_words_over_words_by_hand() -> None:
    # a b a b c a d a b e e e f: 13 words, 6 of them different; pairs ab ba bc ad ab ee ee ef: 8, 6 different.
    found = distinct(SAMPLES)
    assert found[DISTINCT_1].value == 6 / 13
    assert found[DISTINCT_2].value == 6 / 8


def test_leaving_a_prompt_out_is_counting_the_others_alone() -> None:
    found = distinct(SAMPLES)
    for name, logged in ((DISTINCT_1, LOGGED_1), (DISTINCT_2, LOGGED_2)):
        whole = distinctness([text for texts in SAMPLES for text in texts])[logged]
        without = [
            distinctness([text for place, texts in enumerate(SAMPLES) if place != left for text in texts])[logged] for left in range(3)
        ]
        expected = Estimate.of_jackknife(whole, without)
        assert found[name].value == whole
        assert found[name].influences == pytest.approx(expected.influences)
        assert found[name].standard_error > 0


def test_texts_without_words_have_no_distinctness() -> None:
    assert math.isnan(distinct([[""], [" "]])[DISTINCT_1].value)
    one_speaks = distinct([["a b"], [""]])[DISTINCT_1]
    assert one_speaks.value == 1
    assert math.isnan(one_speaks.standard_error)


@pytest.mark.parametrize("text", ["one two three four five", "Two words", "one", ""])
def test_texts_that_are_the_same_have_a_self_bleu_of_one(text: str) -> None:
    assert self_bleu([text] * 3) == pytest.approx(1.0)


def test_texts_that_share_nothing_have_a_self_bleu_of_zero() -> None:
    assert self_bleu(["a b c d", "e f g h"]) == 0


def test_self_bleu_by_hand() -> None:
    # Both have 4 of 5 words, 3 of 4 pairs, 2 of 3 triples and 1 of 2 fours in common: (4/5 3/4 2/3 1/2)^(1/4) = 0.2^(1/4).
    assert self_bleu(["a b c d e", "A B c d f"]) == pytest.approx(0.2**0.25)


def test_samples_are_compared_within_their_prompt_and_across_prompts() -> None:
    words = ["one two three four", "five six seven eight"]
    collapsed = variety([[f"{text} {place}", f"{text} {place}"] for place, text in enumerate(words * GROUP)])
    assert collapsed[SELF_BLEU].value == pytest.approx(1)
    assert len(collapsed[SELF_BLEU].influences) == 2 * GROUP
    # Texts of different prompts share four words in a row, and no number.
    assert 0 < collapsed[SELF_BLEU_ACROSS].value < 1
    assert len(collapsed[SELF_BLEU_ACROSS].influences) == 2


def test_what_so_few_samples_do_not_say_is_left_out() -> None:
    assert SELF_BLEU not in variety([["a b"], ["c d"]])
    assert SELF_BLEU_ACROSS in variety([["a b"], ["c d"]])
    assert SELF_BLEU_ACROSS not in variety([["a b", "c d"]])


def test_a_group_that_is_not_whole_is_left_out_where_there_is_one_that_is() -> None:
    same, other = [["one two three four"]] * GROUP, [["five six seven eight"], ["nine ten eleven twelve"]]
    assert variety([*same, *other])[SELF_BLEU_ACROSS].value == pytest.approx(1)
    assert variety(other)[SELF_BLEU_ACROSS].value == 0
