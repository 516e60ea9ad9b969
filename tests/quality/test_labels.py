"""Comparisons, contradictions and skews of small data that one can count by hand."""

from __future__ import annotations

import pytest

from alignkit.data.examples import Message, PreferenceExample
from alignkit.quality.comparisons import comparisons
from alignkit.quality.contradictions import circle_in, contradictions
from alignkit.quality.skew import length_skews, position_skews


def pair(prompt: str, chosen: str, rejected: str, source: str = "") -> PreferenceExample:
    return PreferenceExample(prompt=prompt, completions=(chosen, rejected), source=source)


def test_rankings_are_all_their_ordered_pairs_and_ties_are_none():
    ranking = PreferenceExample(prompt="p", completions=("a", "b", "c"), ranks=(1, 0, 1))
    assert [(one.chosen, one.rejected, one.chosen_first) for one in comparisons([ranking])] == [("b", "a", False), ("b", "c", True)]
    best_first = PreferenceExample(prompt="p", completions=("a", "b", "c"))
    assert [(one.chosen, one.rejected) for one in comparisons([best_first])] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert {one.chosen_first for one in comparisons([best_first])} == {None}


def test_demonstrations_compare_nothing():
    assert comparisons([PreferenceExample(prompt="p", completions=("a",), desirable=(True,))]) == []


def test_prompts_are_told_apart_by_their_whole_dialogue():
    turns = [
        (Message(role="user", content="a"), Message(role="assistant", content=middle), Message(role="user", content="b"))
        for middle in "xyx"
    ]
    assert [one.prompt for one in comparisons([PreferenceExample(prompt=turn, completions=("1", "2")) for turn in turns])] == [0, 1, 0]


def test_opposed_and_repeated_labels_are_counted():
    found = contradictions(
        comparisons(
            [pair("p", "a", "b"), pair("p", "b", "a"), pair("p", "a", "b"), pair("q", "a", "b"), pair("q", "a", "b"), pair("r", "b", "a")]
        )
    )
    assert (found.comparisons, found.distinct, found.repeated) == (6, 3, 2)
    assert (found.opposed, found.opposed_comparisons, found.compared_again) == (1, 3, 2)
    assert found.opposed_examples == ((0, 1),)
    assert found.circles == 0


def test_a_circle_of_three_pairs_is_found_with_the_examples_that_make_it():
    rows = [pair("p", "a", "b"), pair("p", "b", "c"), pair("p", "c", "a"), pair("p", "c", "d"), pair("q", "a", "b"), pair("q", "b", "c")]
    found = contradictions(comparisons(rows))
    assert found.circles == 1
    assert sorted(found.circle_examples[0]) == [0, 1, 2]


def test_completions_that_are_labelled_both_ways_make_no_circle():
    found = contradictions(comparisons([pair("p", "a", "b"), pair("p", "b", "a"), pair("p", "b", "c"), pair("p", "c", "a")]))
    assert (found.opposed, found.circles) == (1, 0)


def test_edges_of_a_circle_follow_each_other():
    edges = circle_in([("a", "b"), ("b", "c"), ("c", "d"), ("d", "b"), ("a", "d")])
    assert set(edges) == {("b", "c"), ("c", "d"), ("d", "b")}
    assert circle_in([("a", "b"), ("b", "c"), ("a", "c")]) == []


def test_length_skew_of_each_part():
    found = comparisons(
        [pair(str(n), "long" * 3, "x", source="a") for n in range(8)] + [pair(f"b{n}", "same", "mean", source="b") for n in range(8)]
    )
    everything, a, b = length_skews(found)
    assert [(skew.source, skew.comparisons) for skew in (everything, a, b)] == [("", 16), ("a", 8), ("b", 8)]
    assert (a.longer.value, a.difference.value, a.auc.value) == (1.0, 11.0, 1.0)
    assert (b.longer.value, b.difference.value, b.auc.value) == (0.5, 0.0, 0.5)
    assert everything.longer.value == 0.75
    assert everything.difference.value == pytest.approx(5.5)


def test_positions_are_known_where_data_keep_them_and_nowhere_else():
    scored = [PreferenceExample(prompt=str(n), completions=("a", "b"), ranks=(0, 1) if n < 3 else (1, 0)) for n in range(4)]
    (skew,) = position_skews(comparisons([*scored, pair("p", "a", "b")]))
    assert (skew.comparisons, skew.first.value) == (4, 0.75)
    assert position_skews(comparisons([pair("p", "a", "b")])) == []
