"""Prompts that say the same."""

from __future__ import annotations

import random

from alignkit.data.examples import Message, PreferenceExample
from alignkit.quality.duplicates import NEAR, duplicates, shingles, similarity


def asking(prompt: str) -> PreferenceExample:
    return PreferenceExample(prompt=prompt, completions=("a", "b"))


def words(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    return [f"w{rng.randrange(5000)}" for _ in range(count)]


def test_similarity_is_counted_over_three_words_and_knows_no_case():
    one, other = (shingles(asking(text)) for text in ("A b c d", "a B c e"))
    assert (len(one), len(other)) == (2, 2)
    assert similarity(one, other) == 1 / 3  # abc, of abc bcd bce
    assert shingles(asking("hi")) == shingles(asking("Hi"))
    assert shingles(asking("hi")) != shingles(asking("ho"))


def test_system_messages_do_not_make_prompts_alike():
    def chat(system: str, question: str) -> PreferenceExample:
        return PreferenceExample(
            prompt=(Message(role="system", content=system), Message(role="user", content=question)), completions=("a", "b")
        )

    assert shingles(chat("be kind", "why not now?")) == shingles(chat("be brief", "why not now?"))


def test_repeated_near_and_leaked_prompts_are_told_apart():
    base = [" ".join(words(seed, 60)) for seed in range(30)]
    near = [f"{text} indeed" for text in base[:5]]
    different = " ".join([*words(0, 30), *words(999, 30)])  # one half of the first prompt
    train = [asking(text) for text in (*base, base[3], *near, different)]
    held_out = [asking(base[7].replace("w", "W") + " please"), asking(" ".join(words(500, 60)))]
    found = duplicates(train, held_out)
    assert (found.prompts, found.repeated, found.near) == (36, 1, 5)
    assert found.near_examples == tuple((place, 31 + place) for place in range(5))
    assert (found.held_out, found.leaked, found.leaked_examples) == (2, 1, ((7, 0),))


def test_nearly_all_that_are_just_near_enough_are_found():
    train = []
    for seed in range(100):
        text = words(seed, 70)
        train += [asking(" ".join(text)), asking(" ".join([*text[:-1], "x", "y"]))]
    pairs = [similarity(shingles(train[place]), shingles(train[place + 1])) for place in range(0, 200, 2)]
    assert min(pairs) > NEAR
    assert duplicates(train, []).near >= 98


def test_examples_without_a_prompt_are_compared_with_none():
    assert duplicates([asking(""), asking("")], [asking("")]).prompts == 0
