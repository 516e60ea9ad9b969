"""The order of training is a function of seed and step: not of ranks, of history or of the length of the run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.batches import Counts, StepBatch
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.data.steps import Steps
from alignkit.errors import UserError

COUNTS = {"count": st.integers(1, 23), "pairs": st.integers(1, 9), "seed": st.integers(0, 2**32 - 1)}


def numbered(count: int) -> list[EncodedExample]:
    """Example n has n % 4 + 1 prompt tokens and completions of 1 and n % 3 + 1 tokens."""
    return [
        EncodedExample(key=n, prompt_ids=(3,) * (n % 4 + 1), completion_ids=((2,), (*(4,) * (n % 3), 2)))  # chosen first
        for n in range(count)
    ]


def build(count: int = 10, *, pairs: int = 4, steps: int = 100, seed: int = 0, rank: int = 0, ranks: int = 1) -> Steps:
    packing = Packing(layout="packed", tokens=40, row_tokens=20)
    return Steps(numbered(count), pairs=pairs, steps=steps, seed=seed, packing=packing, rank=rank, ranks=ranks)


def keys(step: StepBatch) -> list[int]:
    return sorted(key for batch in step.micro_batches for key in batch.example_keys)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(**COUNTS, ranks=st.integers(1, 5), step=st.integers(0, 20))
def test_the_shares_of_all_ranks_are_the_batch_of_one_process(count, pairs, seed, ranks, step):
    alone = build(count, pairs=pairs, seed=seed)[step]
    shares = [build(count, pairs=pairs, seed=seed, rank=rank, ranks=ranks)[step] for rank in range(ranks)]
    assert sorted(key for share in shares for key in keys(share)) == keys(alone)
    sizes = [len(keys(share)) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert {(share.count("examples", None), share.count("chosen_tokens", None)) for share in shares} == {
        (alone.count("examples", None), alone.count("chosen_tokens", None))
    }
    assert {share.tokens for share in shares} == {alone.tokens}
    assert len({len(share.micro_batches) for share in shares}) == 1, "ranks run different numbers of forward passes"


@settings(derandomize=True, deadline=None, max_examples=50)
@given(**COUNTS, epoch=st.integers(0, 3))
def test_an_epoch_holds_every_example_once(count, pairs, seed, epoch):
    steps = build(count, pairs=pairs, seed=seed)
    begin = epoch * steps.steps_per_epoch
    seen = [key for step in range(begin, begin + steps.steps_per_epoch) for key in keys(steps[step])]
    assert sorted(seen) == list(range(count))


@settings(derandomize=True, deadline=None, max_examples=50)
@given(**COUNTS, order=st.permutations(range(12)))
def test_a_step_depends_neither_on_steps_before_it_nor_on_the_length_of_the_run(count, pairs, seed, order):
    forwards, jumping = build(count, pairs=pairs, seed=seed, steps=12), build(count, pairs=pairs, seed=seed, steps=99)
    expected = [forwards.global_batch(step) for step in range(12)]
    assert {step: jumping.global_batch(step) for step in order} == dict(enumerate(expected))
    assert keys(jumping[order[0]]) == sorted(expected[order[0]])


def test_seeds_and_epochs_give_different_orders():
    orders = [
        [n for step in range(5) for n in build(20, seed=seed).global_batch(5 * epoch + step)] for seed in range(3) for epoch in range(3)
    ]
    assert len({tuple(order) for order in orders}) == 9


def test_the_counts_are_those_of_the_global_batch():
    # 10 examples in batches of 4: the last batch of an epoch holds 2
    steps = build(10, pairs=4)
    assert steps.steps_per_epoch == 3
    assert [steps[step].count("examples", None) for step in range(6)] == [4, 4, 2, 4, 4, 2]
    for step in range(6):
        chosen = steps.global_batch(step)
        # completion tokens 1 + (n % 3 + 1), prompt tokens n % 4 + 1
        assert steps[step].count("chosen_tokens", None) == len(chosen)
        assert steps[step].tokens == sum(n % 3 + 2 + n % 4 + 1 for n in chosen)


def test_a_rank_without_a_share_of_the_last_short_batch_runs_as_many_passes_as_the_others():
    shares = [build(10, pairs=4, rank=rank, ranks=3)[2] for rank in range(3)]
    assert [len(keys(share)) for share in shares] == [1, 1, 0]
    (empty,) = shares[2].micro_batches
    assert (empty.examples, empty.completions, empty.completion_tokens, int((empty.example_ids >= 0).sum())) == (0, 0, 0, 1)
    assert shares[2].filled == 0
    assert shares[2].count("examples", None) == 2


def test_a_batch_is_never_larger_than_the_data():
    steps = build(3, pairs=64)
    assert steps.steps_per_epoch == 1
    assert [keys(steps[step]) for step in range(3)] == [[0, 1, 2]] * 3


@pytest.mark.parametrize("step", [-1, 5, 6])
def test_steps_outside_the_run_are_refused(step):
    steps = build(steps=5)
    with pytest.raises(IndexError):
        steps[step]
    assert len(steps) == len(list(steps)) == 5


# Prompts with the completions of others


def mismatching(count: int, pairs: int, *, rank: int = 0, ranks: int = 1, seed: int = 0) -> Steps:
    packing = Packing(layout="packed", tokens=40, row_tokens=20)
    return Steps(numbered(count), pairs=pairs, steps=9, seed=seed, packing=packing, rank=rank, ranks=ranks, mismatched=True)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(count=st.integers(2, 23), pairs=st.integers(2, 9), seed=st.integers(0, 2**32 - 1), step=st.integers(0, 8))
def test_each_prompt_meets_the_completions_of_the_next(count, pairs, seed, step):
    steps = mismatching(count, pairs, seed=seed)
    matched = [steps.examples[index] for index in steps.global_batch(step)]
    made = steps.mismatched_examples(step)
    assert len(made) == (len(matched) if len(matched) > 1 else 0)
    for place, item in enumerate(made):
        assert item.completion_ids == matched[(place + 1) % len(matched)].completion_ids
        prompt = matched[place].prompt_ids
        assert item.prompt_ids == prompt[len(prompt) - len(item.prompt_ids) :]
        assert item.prompt_ids
        assert (item.margin, item.ranks, item.desirable, item.ratings) == (0.0, (), (), {})


def test_keys_of_mismatched_examples_are_nobody_elses():
    steps = mismatching(10, 4)
    made = [item.key for step in range(9) for item in steps.mismatched_examples(step)]
    assert len(made) == len(set(made)) == sum(steps[step].count("examples", None) for step in range(9))
    assert max(made) < 0
    assert [item.key for item in steps.mismatched_examples(7)] == [item.key for item in mismatching(10, 4, seed=5).mismatched_examples(7)]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(count=st.integers(2, 23), pairs=st.integers(2, 9), ranks=st.integers(1, 5), step=st.integers(0, 8))
def test_ranks_share_the_mismatched_examples(count, pairs, ranks, step):
    expected = [item.key for item in mismatching(count, pairs).mismatched_examples(step)]
    shares = [mismatching(count, pairs, rank=rank, ranks=ranks)[step].mismatched for rank in range(ranks)]
    assert sorted(key for share in shares for batch in share for key in batch.example_keys) == sorted(expected)


def test_a_mismatched_example_is_no_longer_than_the_longest_example():
    # 5 + 2 and 2 + 6 tokens; the long prompt before the long completion keeps its newest 2
    one = EncodedExample(key=0, prompt_ids=(1, 2, 3, 4, 5), completion_ids=((8, 9),))
    other = EncodedExample(key=1, prompt_ids=(6, 7), completion_ids=((9, 9), (1, 2, 3, 4, 5, 6)))
    steps = Steps([one, other], pairs=2, steps=1, seed=0, packing=Packing(layout="packed", tokens=99), mismatched=True)
    made = {item.completion_ids: item.prompt_ids for item in steps.mismatched_examples(0)}
    assert made == {other.completion_ids: (4, 5), one.completion_ids: (6, 7)}


def test_without_being_asked_a_step_has_no_mismatched_examples():
    steps = build(10, pairs=4)
    assert steps[0].mismatched == []
    assert steps.mismatched_examples(0) == []


def test_a_batch_of_one_example_has_no_mismatched_ones():
    # 9 examples in batches of 4: the last one holds 1
    steps = mismatching(9, 4)
    assert steps[2].count("examples", None) == 1
    assert steps[2].mismatched == []


@pytest.mark.parametrize(("count", "pairs"), [(10, 1), (1, 10)])
def test_batches_of_one_are_refused_where_mismatched_examples_are_needed(count, pairs):
    with pytest.raises(UserError, match=rf"batch\.pairs = {pairs}, and {count} examples .* Try batch\.pairs=16"):
        mismatching(count, pairs)


def test_the_counts_of_a_mixture_are_told_by_source():
    examples = [replace(example, source="ab"[example.key % 2]) for example in numbered(6)]
    packing = Packing(layout="packed", tokens=40, row_tokens=20)
    step = Steps(examples, pairs=6, steps=1, seed=0, packing=packing)[0]
    # the chosen completions have one token: a is 0, 2, 4 and b is 1, 3, 5
    assert step.global_counts == {"a": Counts(3, 6, 3), "b": Counts(3, 6, 3)}
    assert [step.count(unit, None) for unit in ("examples", "completions", "chosen_tokens")] == [6, 12, 6]
    assert [step.count("completions", source) for source in ("a", "c")] == [6, 0]
