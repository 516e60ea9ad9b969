"""What objectives read of an example, made out of feedback of every kind."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.data.dropping import REASONS
from alignkit.data.examples import PreferenceExample
from alignkit.data.forms import Form, ranks_of
from alignkit.data.rows import DroppedRow

NAN = math.nan
TEXT = PreferenceExample(prompt="p", completions=("a",))
WANTED = PreferenceExample(prompt="p", completions=("a",), desirable=(True,))
UNWANTED = PreferenceExample(prompt="p", completions=("a",), desirable=(False,))
PAIR = PreferenceExample(prompt="p", completions=("a", "b"), margin=1.5)
TIE = PreferenceExample(prompt="p", completions=("a", "b"), ranks=(0, 0))
RANKING = PreferenceExample(prompt="p", completions=("a", "b", "c", "d"), ranks=(1, 3, 0, 1), margin=4.0, source="mine")
"""c, then a and d, then b."""
FORMS = [Form.single(), Form.pairs(), Form.labels(), Form.rankings(), Form.ratings("x"), Form(completions=None)]


def reason(form: Form, example: PreferenceExample) -> str:
    with pytest.raises(DroppedRow) as caught:
        form.of(example)
    assert caught.value.reason in REASONS
    return caught.value.reason


def test_a_pair_is_a_pair_a_text_two_labels_and_a_ranking() -> None:
    assert Form.pairs().of(PAIR) == Form.rankings().of(PAIR) == PAIR
    assert Form.single().of(PAIR).completions == ("a",)
    assert Form.labels().of(PAIR) == replace(PAIR, desirable=(True, False))


def test_a_pair_whose_second_completion_is_better_is_turned_round() -> None:
    backwards = replace(PAIR, ranks=(1, 0), desirable=(False, True), ratings={"x": (2.0, 5.0)})
    formed = Form(completions=2, rated=("x",)).of(backwards)
    assert (formed.completions, formed.ranks, formed.desirable, formed.ratings) == (("b", "a"), (0, 1), (True, False), {"x": (5.0, 2.0)})
    assert Form.single().of(backwards).completions == ("b",)


def test_a_pair_of_a_ranking_is_its_best_against_its_worst() -> None:
    assert Form.pairs().of(RANKING) == PreferenceExample(prompt="p", completions=("c", "b"), ranks=(0, 1), margin=4.0, source="mine")
    assert Form.pairs().of(replace(RANKING, ranks=())).completions == ("a", "d")


def test_a_ranking_comes_best_first_with_its_ties() -> None:
    formed = Form.rankings().of(RANKING)
    assert (formed.completions, formed.ranks) == (("c", "a", "d", "b"), (0, 1, 1, 2))


def test_labels_of_a_ranking_leave_the_middle_out() -> None:
    formed = Form.labels().of(RANKING)
    assert (formed.completions, formed.desirable) == (("c", "b"), (True, False))
    two_best = Form.labels().of(replace(RANKING, ranks=(0, 2, 0, 1)))
    assert (two_best.completions, two_best.desirable) == (("a", "c", "b"), (True, True, False))


def test_labels_that_were_given_are_kept() -> None:
    assert Form.labels().of(UNWANTED) == UNWANTED
    assert Form.labels().of(replace(TIE, desirable=(True, True))).desirable == (True, True)
    assert Form.labels().of(replace(RANKING, desirable=(True, False, True, True))).desirable == (True, True, True, False)


@pytest.mark.parametrize(
    ("form", "example", "expected"),
    [
        (Form.pairs(), TEXT, "no_rejected"),
        (Form.rankings(), WANTED, "no_rejected"),
        (Form.labels(), TEXT, "no_label"),
        (Form.single(), UNWANTED, "undesirable"),
        (Form.pairs(), TIE, "tie"),
        (Form.rankings(), TIE, "tie"),
        (Form.labels(), TIE, "tie"),
        (Form.ratings("x"), PAIR, "no_rating"),
        (Form.ratings("x"), replace(PAIR, ratings={"x": (NAN, NAN), "y": (1.0, 2.0)}), "no_rating"),
        (Form(completions=2, rated=("x",)), replace(RANKING, ratings={"x": (1.0, NAN, NAN, 2.0)}), "no_rating"),
    ],
)
def test_what_does_not_hold_what_is_asked_for_is_dropped(form: Form, example: PreferenceExample, expected: str) -> None:
    assert reason(form, example) == expected


def test_texts_to_imitate_are_those_that_are_wanted_or_unlabelled() -> None:
    assert Form.single().of(TEXT).completions == Form.single().of(WANTED).completions == Form.single().of(TIE).completions == ("a",)


def test_ratings_that_are_not_asked_for_stay_behind_and_missing_ones_are_nan() -> None:
    rated = replace(PAIR, ratings={"x": (1.0, NAN), "y": (3.0, 4.0)})
    assert Form.pairs().of(rated).ratings == {}
    assert Form.ratings("x").of(rated).ratings == {"x": (1.0, NAN)}
    assert Form.ratings("z", "x").of(rated).ratings == {"z": (NAN, NAN), "x": (1.0, NAN)}


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (Form.single(), Form.pairs(), Form.pairs()),
        (Form.pairs(), Form.rankings(), Form.rankings()),
        (Form.pairs(), Form.labels(), Form(completions=None, labelled=True, ranked=True)),
        (Form.single(), Form.ratings("x"), Form.ratings("x")),
        (Form.ratings("x", "y"), Form.ratings("y", "z"), Form.ratings("x", "y", "z")),
        (Form.pairs(), Form.pairs(), Form.pairs()),
    ],
)
def test_two_objectives_read_what_holds_both(one: Form, other: Form, both: Form) -> None:
    assert one.joined(other) == both
    assert set(other.joined(one).rated) == set(both.rated)
    assert replace(other.joined(one), rated=()) == replace(both, rated=())


@st.composite
def feedback(draw: st.DrawFn) -> PreferenceExample:
    """Completion n is the text n, whatever is said of it."""
    count = draw(st.integers(1, 5))
    numbers = st.tuples(*[st.floats(0, 9) | st.just(NAN)] * count)
    return PreferenceExample(
        prompt="p",
        completions=tuple(map(str, range(count))),
        ranks=draw(st.just(()) | st.tuples(*[st.integers(0, 3)] * count)),
        desirable=draw(st.just(()) | st.tuples(*[st.booleans()] * count)),
        ratings=draw(st.fixed_dictionaries({}, optional={"x": numbers, "y": numbers})),
    )


@given(example=feedback(), form=st.sampled_from(FORMS))
def test_feedback_stays_with_its_completion_and_the_best_come_first(example: PreferenceExample, form: Form) -> None:
    try:
        formed = form.of(example)
    except DroppedRow:
        return
    places = [int(text) for text in formed.completions]
    assert len(places) == len(set(places)) == (form.completions or len(places))
    old = example.ranks or tuple(range(len(example.completions)))
    new = formed.ranks or tuple(range(len(places)))
    assert list(new) == sorted(new)
    assert set(new) == set(range(max(new) + 1))
    assert [(new[i] < new[j], new[i] == new[j]) for i in range(len(new)) for j in range(len(new))] == [
        (old[i] < old[j], old[i] == old[j]) for i in places for j in places
    ]
    assert old[places[0]] == min(old)
    if form.completions != 1:
        assert old[places[-1]] == max(old)
    if example.desirable:
        assert formed.desirable == tuple(example.desirable[place] for place in places)
    for attribute, ratings in formed.ratings.items():
        assert ratings == tuple(example.ratings[attribute][place] for place in places) if attribute in example.ratings else True
    assert form.of(formed) == formed, "what is in a form stays as it is"


def test_ranks_of_scores() -> None:
    assert ranks_of((7, 9, 7)) == (1, 0, 1)
    assert ranks_of((1.0, 1.0)) == (0, 0)
    assert ranks_of((-1.0,)) == (0,)
    assert ranks_of((3, 2, 1)) == (0, 1, 2)
