"""The order of training is a function of seed and step: not of ranks, of history or of the length of the run."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.batches import StepBatch
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.data.steps import Steps

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
    assert {(share.global_examples, share.global_tokens) for share in shares} == {(alone.global_examples, alone.global_tokens)}
    assert sum(share.tokens for share in shares) == alone.tokens


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
    assert [steps[step].global_examples for step in range(6)] == [4, 4, 2, 4, 4, 2]
    for step in range(6):
        chosen = steps.global_batch(step)
        # completion tokens 1 + (n % 3 + 1), prompt tokens n % 4 + 1
        assert steps[step].global_tokens == sum(n % 3 + 2 for n in chosen)
        assert steps[step].tokens == sum(n % 3 + 2 + n % 4 + 1 for n in chosen)


def test_a_rank_without_a_share_of_the_last_short_batch_has_no_micro_batch():
    shares = [build(10, pairs=4, rank=rank, ranks=3)[2] for rank in range(3)]
    assert [len(keys(share)) for share in shares] == [1, 1, 0]
    assert shares[2].micro_batches == []
    assert shares[2].tokens == 0
    assert shares[2].global_examples == 2


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
