"""Packing loses nothing: what is recovered from batches by the description of their layout (`alignkit.batches`) is what was packed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from hypothesis import example, given
from hypothesis import strategies as st

from alignkit.batches import Layout, PackedBatch, StepBatch
from alignkit.data.collate import micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.data.steps import Steps
from alignkit.models.attention import additive_mask, visibility

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder
from trials import fuzz

Ids = tuple[int, ...]
Texts = tuple[Ids, tuple[Ids, ...]]
"""A prompt and its completions."""

LENGTHS = st.sampled_from([1, 1, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33])
"""Around the edges of budgets and multiples."""
IDS = LENGTHS.flatmap(lambda length: st.lists(st.integers(0, 5), min_size=length, max_size=length)).map(tuple)
COMPLETIONS = st.lists(IDS, min_size=1, max_size=5) | st.builds(lambda ids, count: [ids] * count, IDS, st.integers(1, 4))
"""Also identical ones."""
TEXTS: st.SearchStrategy[Texts] = st.tuples(IDS, COMPLETIONS.map(tuple))
LISTS = st.lists(TEXTS, min_size=1, max_size=7) | st.builds(lambda texts, count: [texts] * count, TEXTS, st.integers(1, 6))
"""Also the same example over and over."""


@st.composite
def packings(draw: st.DrawFn, examples: Sequence[Texts]) -> Packing:
    """Budgets from one token up, and at the very lengths of the examples and their sums."""
    exact = [len(prompt) + sum(map(len, completions)) for prompt, completions in examples]
    edges = st.sampled_from([*exact, sum(exact), *(length + 1 for length in exact), *(length - 1 for length in exact), 1, 64, 10_000])
    tokens, row_tokens = (max(1, draw(edges)) for _ in range(2))
    return Packing(
        layout=draw(st.sampled_from(["packed", "rows"])),
        tokens=tokens,
        row_tokens=draw(st.sampled_from([None, row_tokens])),
        multiple=draw(st.sampled_from([1, 1, 8, 128])),
    )


@st.composite
def packed(draw: st.DrawFn) -> tuple[list[EncodedExample], Packing]:
    texts = draw(LISTS)
    return encoded(texts), draw(packings(texts))


def encoded(texts: Sequence[Texts]) -> list[EncodedExample]:
    return [EncodedExample(key=1000 + n, prompt_ids=prompt, completion_ids=sides) for n, (prompt, sides) in enumerate(texts)]


def recovered(batch: PackedBatch) -> dict[int, Texts]:
    """Prompt and completions by key, out of `input_ids`, `example_ids`, `branch_ids` and `position_ids` alone. Asserts that all other
    tensors say the same."""
    ids, owners, branches, positions = (
        table.flatten().tolist() for table in (batch.input_ids, batch.example_ids, batch.branch_ids, batch.position_ids)
    )
    width = batch.input_ids.shape[1]
    predictors: list[int] = []
    targets: list[int] = []
    of_completion: list[int] = []
    terminals: list[int] = []
    prompt_ends: list[int] = []
    of_example: list[int] = []
    texts: dict[int, Texts] = {}
    for number, key in enumerate(batch.example_keys):
        mine = [place for place, owner in enumerate(owners) if owner == number]
        prompts: dict[int, list[int]] = {}  # by row
        for place in mine:
            if branches[place] == 0:
                prompts.setdefault(place // width, []).append(place)
        completions = []
        for branch in range(1, max(branches[place] for place in mine) + 1):
            places = [place for place in mine if branches[place] == branch]
            (row,) = {place // width for place in places}
            prompt = prompts[row]
            assert [positions[place] for place in [*prompt, *places]] == list(range(len(prompt) + len(places)))
            predictors += [prompt[-1], *places[:-1]]
            targets += [ids[place] for place in places]
            of_completion += [len(terminals)] * len(places)
            terminals.append(places[-1])
            of_example.append(number)
            completions.append(tuple(ids[place] for place in places))
        copies = {tuple(ids[place] for place in prompt) for prompt in prompts.values()}
        assert len(copies) == 1
        assert len(prompts) == (1 if batch.layout == "packed" else len(completions))
        prompt_ends.append(next(iter(prompts.values()))[-1])
        texts[key] = (copies.pop(), tuple(completions))
    assert batch.predictor_index.tolist() == predictors
    assert batch.target_ids.tolist() == targets
    assert batch.completion_index.tolist() == of_completion
    assert batch.terminal_index.tolist() == terminals
    assert batch.prompt_index.tolist() == prompt_ends
    assert batch.example_index.tolist() == of_example
    assert batch.completion_counts == tuple(len(completions) for _, completions in texts.values())
    padding = [place for place, owner in enumerate(owners) if owner == -1]
    assert all(ids[place] == positions[place] == branches[place] == 0 for place in padding)
    return texts


@fuzz(60)
@given(made=packed())
def test_what_is_recovered_from_the_batches_is_what_was_packed(made: tuple[list[EncodedExample], Packing]) -> None:
    examples, packing = made
    found: dict[int, Texts] = {}
    for batch in micro_batches(examples, packing):
        texts = recovered(batch)
        assert not found.keys() & texts.keys(), "an example is in two batches"
        found |= texts
        used = (batch.example_ids >= 0).sum(1)
        multiple = packing.multiple if packing.layout == "packed" else 1
        assert batch.input_ids.shape[1] == -(-int(used.max()) // multiple) * multiple
        assert batch.layout == packing.layout
        if batch.examples > 1:
            assert len(used) * int(used.max()) <= packing.tokens
    assert found == {item.key: (item.prompt_ids, item.completion_ids) for item in examples}


@fuzz(40)
@given(made=packed())
def test_a_token_sees_its_prompt_and_its_own_completion_up_to_itself(made: tuple[list[EncodedExample], Packing]) -> None:
    """The rule without the mask's formula: read in order of position, what the last token of a completion sees is prompt and completion."""
    examples, packing = made
    by_key = {item.key: item for item in examples}
    for batch in micro_batches(examples, packing):
        if batch.input_ids.numel() * batch.input_ids.shape[1] > 200_000:
            continue
        seen = visibility(batch)
        assert torch.equal(additive_mask(batch, torch.float32)[:, 0] == 0, seen)
        for row, owners in enumerate(batch.example_ids.tolist()):
            for place, owner in enumerate(owners):
                looked_at = seen[row, place].nonzero().flatten().tolist()
                if owner == -1:
                    assert looked_at == [place]
                    continue
                item, branch = by_key[batch.example_keys[owner]], int(batch.branch_ids[row, place])
                whole = item.prompt_ids + (item.completion_ids[branch - 1] if branch else ())
                assert batch.position_ids[row, looked_at].tolist() == list(range(int(batch.position_ids[row, place]) + 1))
                assert batch.input_ids[row, looked_at].tolist() == list(whole[: len(looked_at)])
                assert {owners[other] for other in looked_at} == {owner}


def contents(steps: Sequence[StepBatch]) -> Counter[tuple[int, Texts]]:
    """What all ranks together compute in one step."""
    return Counter(item for step in steps for batch in step.micro_batches if batch.examples for item in recovered(batch).items())


@fuzz(20)
@given(made=packed(), pairs=st.integers(1, 9), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 2**20), mismatched=st.booleans())
@example(made=(encoded([((1,), ((2,),))] * 3), Packing(layout="packed", tokens=1)), pairs=2, seed=0, epoch=0, mismatched=True)
def test_one_three_and_eight_processes_compute_the_same_steps(
    made: tuple[list[EncodedExample], Packing], pairs: int, seed: int, epoch: int, mismatched: bool
) -> None:
    examples, packing = made
    mismatched = mismatched and min(pairs, len(examples)) > 1

    def steps(rank: int, ranks: int) -> Steps:
        return Steps(examples, pairs=pairs, steps=2**62, seed=seed, packing=packing, rank=rank, ranks=ranks, mismatched=mismatched)

    alone = steps(0, 1)
    first = epoch * alone.steps_per_epoch
    seen: Counter[tuple[int, Texts]] = Counter()
    for step in range(first, first + alone.steps_per_epoch):
        expected = alone[step]
        seen += contents([expected])
        for ranks in (2, 3, 8):
            shares = [steps(rank, ranks)[step] for rank in range(ranks)]
            assert contents(shares) == contents([expected])
            assert len({len(share.micro_batches) for share in shares}) == 1
            assert all(share.global_counts == expected.global_counts and share.tokens == expected.tokens for share in shares)
            others = Counter(key for share in shares for batch in share.mismatched for key in batch.example_keys)
            assert others == Counter(key for batch in expected.mismatched for key in batch.example_keys)
    assert seen == Counter({(item.key, (item.prompt_ids, item.completion_ids)): 1 for item in examples})


@fuzz(60)
@given(count=st.integers(1, 40), pairs=st.integers(1, 50), seed=st.integers(0, 2**63), step=st.integers(0, 2**40))
def test_the_order_is_a_function_of_seed_epoch_and_step(count: int, pairs: int, seed: int, step: int) -> None:
    layout: Layout = "packed"

    def batch(examples: int, tokens: int, rank: int, ranks: int) -> list[int]:
        some = encoded([((n,), ((n,),)) for n in range(examples)])
        packing = Packing(layout=layout, tokens=tokens)
        return Steps(some, pairs=pairs, steps=2**62, seed=seed, packing=packing, rank=rank, ranks=ranks).global_batch(step)

    expected = batch(count, 100, 0, 1)
    assert expected == batch(count, 3, 5, 8)
    assert len(set(expected)) == len(expected)
    assert all(0 <= place < count for place in expected)
