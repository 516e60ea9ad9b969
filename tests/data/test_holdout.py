"""Which examples are held out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignkit.data.examples import Message, PreferenceExample
from alignkit.data.holdout import check_share, hold_out, prompt_key
from alignkit.errors import UserError


def example(prompt: str, number: int = 0) -> PreferenceExample:
    return PreferenceExample(prompt=prompt, completions=(f" {number}", " no"))


def examples(prompts: list[int]) -> list[PreferenceExample]:
    return [example(f"prompt {prompt}", number) for number, prompt in enumerate(prompts)]


some_prompts = st.lists(st.integers(0, 12), min_size=1, max_size=40)


@given(some_prompts, st.integers(1, 20))
def test_no_prompt_is_on_both_sides_and_nothing_is_lost(prompts: list[int], count: int) -> None:
    data = examples(prompts)
    train, validation = hold_out(data, count)
    assert {one.prompt for one in train}.isdisjoint({one.prompt for one in validation})
    assert [one for one in data if one in train] == train
    assert [one for one in data if one in validation] == validation
    assert len(train) + len(validation) == len(data)
    assert len(validation) >= min(count, len(data))


@given(some_prompts, st.integers(1, 20), st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(prompts: list[int], count: int, random: st.DrawFn) -> None:
    data = examples(prompts)
    shuffled = list(data)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert set(hold_out(data, count)[1]) == set(hold_out(shuffled, count)[1])


@given(some_prompts, some_prompts, st.integers(1, 20))
def test_added_rows_never_move_an_old_example_into_validation(prompts: list[int], added: list[int], count: int) -> None:
    before = examples(prompts)
    after = before + [example(f"prompt {100 + prompt}", number) for number, prompt in enumerate(added)]
    assert set(hold_out(after, count)[1]) & set(before) <= set(hold_out(before, count)[1])


def test_the_choice_is_the_smallest_sha256_and_so_the_same_on_every_machine() -> None:
    # sha256: b 3e23e816..., d 18ac3e73..., c 2e7d2c03..., a ca978112...
    train, validation = hold_out([example(prompt) for prompt in "abcd"], 2)
    assert [one.prompt for one in validation] == ["c", "d"]
    assert [one.prompt for one in train] == ["a", "b"]


def test_prompts_are_told_apart_by_their_turns() -> None:
    user, assistant = Message(role="user", content="Hi"), Message(role="assistant", content="Hi")
    keys = {prompt_key(PreferenceExample(prompt=prompt, completions=("a",))) for prompt in ("Hi", (user,), (assistant,), (user, user))}
    assert len(keys) == 4


def test_texts_without_a_prompt_are_held_out_one_by_one() -> None:
    data = [PreferenceExample(prompt="", completions=(text,)) for text in "abcdef"]
    assert len(hold_out(data, 2)[1]) == 2


def test_more_than_half_is_refused_with_a_number_that_would_do() -> None:
    data = examples(list(range(30)))
    check_share(data, 15, count=15, where="dataset.path = a.jsonl")
    with pytest.raises(UserError) as caught:
        check_share(data, 16, count=16, where="dataset.path = a.jsonl")
    assert str(caught.value) == (
        "dataset.validation_examples = 16 would hold out 16 of the 30 examples (30 prompts) of dataset.path = a.jsonl; at most half may "
        "be. Try dataset.validation_examples=3, or give a second file with dataset.validation_path=FILE."
    )


def test_one_prompt_cannot_be_split() -> None:
    with pytest.raises(UserError, match=r"\(1 prompt\).*Whole prompts are held out; give a second file"):
        check_share(examples([7] * 10), 10, count=1, where="dataset.path = a.jsonl")
