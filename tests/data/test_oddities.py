"""What is odd about examples, counted."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from alignkit.data.examples import Message, PreferenceExample
from alignkit.data.oddities import Oddities, are_near_identical, has_odd_turns, of_all_processes, of_this_process

KEYS = pytest.mark.parametrize("key", [of_this_process, of_all_processes])


def pair(chosen: str, rejected: str, prompt: str = "p") -> PreferenceExample:
    return PreferenceExample(prompt=prompt, completions=(chosen, rejected))


def labelled(answer: str, label: bool) -> PreferenceExample:
    return PreferenceExample(prompt="p", completions=(answer,), desirable=(label,))


def counted(key: Callable[..., int], *examples: PreferenceExample) -> dict[str, int]:
    oddities = Oddities(key)
    for example in examples:
        oddities.look(example)
    return dict(oddities.counted())


@KEYS
def test_an_example_that_came_before_is_repeated(key: Callable[..., int]) -> None:
    assert counted(key, pair("a", "b"), pair("a", "b"), pair("a", "b"), pair("a", "b", prompt="q")) == {"repeated": 2}
    assert counted(key, pair("a", "b"), pair("a", "c")) == {}


@KEYS
def test_both_sides_of_a_contradiction_are_counted_whatever_their_order(key: Callable[..., int]) -> None:
    for order in itertools.permutations([pair("a", "b"), pair("b", "a"), pair("a", "c"), pair("b", "a", prompt="q")]):
        assert counted(key, *order) == {"contradicting": 2}
    assert counted(key, labelled("a", True), labelled("a", False), labelled("b", True)) == {"contradicting": 2}
    assert counted(key, labelled("a", True), labelled("b", False)) == {}


def test_what_is_found_apart_is_found_together() -> None:
    one, two = Oddities(of_all_processes), Oddities(of_all_processes)
    one.look(pair("a", "b"))
    two.look(pair("b", "a"))
    two.look(pair("a", "b"))
    one.add(two)
    assert one.counted() == {"repeated": 1, "contradicting": 3}


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("a  b", "a b", True),
        ("a\tb\n", "a b", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("\u00a0a", "a", True),
        ("a b", "ab", False),
        ("a", "A", False),
        ("a", "a.", False),
    ],
)
def test_texts_that_look_alike_differ_in_nothing_but_white_space_and_composition(left: str, right: str, same: bool) -> None:
    assert are_near_identical((left, right)) is same


@pytest.mark.parametrize(
    ("roles", "odd"),
    [("u", False), ("uau", False), ("su", False), ("suau", False), ("uu", True), ("au", True), ("usu", True), ("ssu", True)],
)
def test_a_dialogue_takes_turns_after_one_system_turn(roles: str, odd: bool) -> None:
    names = {"u": "user", "a": "assistant", "s": "system"}
    prompt = tuple(Message(role=names[role], content="x") for role in roles)  # type: ignore[arg-type]
    assert has_odd_turns(PreferenceExample(prompt=prompt, completions=("a",))) is odd
