"""The batch layout against the worked example of `alignkit.batches`, against its own definition, and through Lightning."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities import move_data_to_device

from alignkit.batches import Counts, PackedBatch, StepBatch
from alignkit.data.collate import collate, micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing

INT64 = (
    "input_ids",
    "position_ids",
    "predictor_index",
    "target_ids",
    "completion_index",
    "terminal_index",
    "prompt_index",
    "example_index",
)
INT32 = ("example_ids", "branch_ids")
IDS = st.lists(st.integers(0, 9), min_size=1, max_size=6).map(tuple)


@st.composite
def example_lists(draw: st.DrawFn) -> list[EncodedExample]:
    parts = draw(st.lists(st.tuples(IDS, st.lists(IDS, min_size=1, max_size=3).map(tuple)), min_size=1, max_size=6))
    return [EncodedExample(key=100 + n, prompt_ids=prompt, completion_ids=sides, margin=n / 2) for n, (prompt, sides) in enumerate(parts)]


def example(key: int, prompt: tuple[int, ...], *completions: tuple[int, ...], margin: float = 0.0) -> EncodedExample:
    return EncodedExample(key=key, prompt_ids=prompt, completion_ids=completions, margin=margin)


PAIR = example(7, (10, 11), (20, 21), (30,), margin=1.5)


def lists(batch: PackedBatch) -> dict[str, object]:
    return {name: getattr(batch, name).tolist() for name in (*INT64, *INT32)}


def read_back(batch: PackedBatch) -> dict[int, tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    """Prompt and completions of each example key, out of the batch's own tensors."""
    ids, owner, branch = batch.input_ids.flatten(), batch.example_ids.flatten(), batch.branch_ids.flatten()
    examples = {}
    for number, key in enumerate(batch.example_keys):
        mine = [c for c in range(batch.completions) if batch.example_index[c] == number]
        completions = [tuple(batch.target_ids[batch.completion_index == c].tolist()) for c in mine]
        copies = 1 if batch.layout == "packed" else len(mine)
        prompt = ids[(owner == number) & (branch == 0)].tolist()
        assert prompt == prompt[: len(prompt) // copies] * copies
        for k, completion in enumerate(completions, start=1):
            assert tuple(ids[(owner == number) & (branch == k)].tolist()) == completion
        examples[key] = (tuple(prompt[: len(prompt) // copies]), completions)
    return examples


def test_the_worked_example_packed():
    assert lists(collate([[PAIR]], "packed")) == {
        "input_ids": [[10, 11, 20, 21, 30]],
        "position_ids": [[0, 1, 2, 3, 2]],
        "example_ids": [[0, 0, 0, 0, 0]],
        "branch_ids": [[0, 0, 1, 1, 2]],
        "predictor_index": [1, 2, 1],
        "target_ids": [20, 21, 30],
        "completion_index": [0, 0, 1],
        "terminal_index": [3, 4],
        "prompt_index": [1],
        "example_index": [0, 0],
    }


def test_the_worked_example_in_rows():
    # row 0: p0 p1 a0 a1, row 1: p0 p1 b0 and one padding; flat positions of row 1 start at 4
    assert lists(collate([[PAIR]], "rows")) == {
        "input_ids": [[10, 11, 20, 21], [10, 11, 30, 0]],
        "position_ids": [[0, 1, 2, 3], [0, 1, 2, 0]],
        "example_ids": [[0, 0, 0, 0], [0, 0, 0, -1]],
        "branch_ids": [[0, 0, 1, 1], [0, 0, 2, 0]],
        "predictor_index": [1, 2, 5],
        "target_ids": [20, 21, 30],
        "completion_index": [0, 0, 1],
        "terminal_index": [3, 6],
        "prompt_index": [1],
        "example_index": [0, 0],
    }


def test_neighbours_in_a_row_keep_apart_and_the_second_row_is_padded():
    # row 0: pair 7 (5 tokens), then pair 8 = prompt 12, completions 22 and 32 33 (4 tokens); row 1: pair 9 = 13 | 23 | 33 (3 tokens)
    other = example(8, (12,), (22,), (32, 33), margin=0.5)
    batch = collate([[PAIR, other], [example(9, (13,), (23,), (33,))]], "packed")
    assert lists(batch) == {
        "input_ids": [[10, 11, 20, 21, 30, 12, 22, 32, 33], [13, 23, 33, 0, 0, 0, 0, 0, 0]],
        "position_ids": [[0, 1, 2, 3, 2, 0, 1, 1, 2], [0, 1, 1, 0, 0, 0, 0, 0, 0]],
        "example_ids": [[0, 0, 0, 0, 0, 1, 1, 1, 1], [2, 2, 2, -1, -1, -1, -1, -1, -1]],
        "branch_ids": [[0, 0, 1, 1, 2, 0, 1, 2, 2], [0, 1, 2, 0, 0, 0, 0, 0, 0]],
        "predictor_index": [1, 2, 1, 5, 5, 7, 9, 9],
        "target_ids": [20, 21, 30, 22, 32, 33, 23, 33],
        "completion_index": [0, 0, 1, 2, 3, 3, 4, 5],
        "terminal_index": [3, 4, 6, 8, 10, 11],
        "prompt_index": [1, 5, 9],
        "example_index": [0, 0, 1, 1, 2, 2],
    }
    assert batch.example_keys == (7, 8, 9)
    assert batch.margins == (1.5, 0.5, 0.0)
    assert (batch.examples, batch.completions, batch.completion_tokens) == (3, 6, 8)


@pytest.mark.parametrize("layout", ["packed", "rows"])
@settings(derandomize=True, deadline=None, max_examples=60)
@given(examples=example_lists(), tokens=st.integers(1, 80), row_tokens=st.integers(1, 40))
def test_micro_batches_hold_every_example_once_and_whole(layout, examples, tokens, row_tokens):
    batches = micro_batches(examples, Packing(layout=layout, tokens=tokens, row_tokens=row_tokens))
    back = [(key, *parts) for batch in batches for key, parts in read_back(batch).items()]
    assert sorted(back) == [(e.key, e.prompt_ids, list(e.completion_ids)) for e in examples]
    margins = {key: margin for batch in batches for key, margin in zip(batch.example_keys, batch.margins, strict=True)}
    assert margins == {e.key: e.margin for e in examples}


@pytest.mark.parametrize("layout", ["packed", "rows"])
@settings(derandomize=True, deadline=None, max_examples=60)
@given(examples=example_lists(), tokens=st.integers(1, 80), row_tokens=st.integers(1, 40))
def test_only_a_single_long_example_exceeds_the_tokens_of_a_micro_batch(layout, examples, tokens, row_tokens):
    for batch in micro_batches(examples, Packing(layout=layout, tokens=tokens, row_tokens=row_tokens)):
        assert batch.input_ids.numel() <= tokens or batch.examples == 1


def test_one_outlier_does_not_make_the_other_micro_batches_as_large():
    # 300 tokens once, and twenty examples of 20: micro-batches of 100 hold five of these
    examples = [example(n, (3,) * (298 if n == 0 else 18), (4,), (5,)) for n in range(21)]
    batches = micro_batches(examples, Packing(layout="packed", tokens=100, row_tokens=50))
    assert sorted(batch.input_ids.numel() for batch in batches)[-2] <= 100


@settings(derandomize=True, deadline=None, max_examples=60)
@given(examples=example_lists(), tokens=st.integers(1, 80), row_tokens=st.integers(1, 40))
def test_packed_rows_are_no_longer_than_row_tokens_or_the_longest_example(examples, tokens, row_tokens):
    longest = max(example.packed_tokens for example in examples)
    for batch in micro_batches(examples, Packing(layout="packed", tokens=tokens, row_tokens=row_tokens)):
        assert (batch.example_ids >= 0).sum(1).max() <= max(row_tokens, longest)


def test_one_outlier_does_not_make_the_other_rows_longer():
    # a row twice as long costs four times the attention; 300 tokens fit into no micro-batch, so nothing is won by longer rows
    examples = [example(n, (3,) * (298 if n == 0 else 18), (4,), (5,)) for n in range(21)]
    batches = micro_batches(examples, Packing(layout="packed", tokens=100, row_tokens=50))
    assert sorted(batch.input_ids.shape[1] for batch in batches)[:-1] == [40] * (len(batches) - 1)


def test_a_row_that_is_as_long_as_the_longest_example_anyway_is_filled_up():
    # 6 tokens, and two of 3 that would fit into no row of 4 together
    long, *short = example(0, (3, 4), (5, 2), (6, 2)), example(1, (3,), (4,), (5,)), example(2, (6,), (7,), (8,))
    (batch,) = micro_batches([long, *short], Packing(layout="packed", tokens=100, row_tokens=4))
    assert batch.input_ids.shape == (2, 6)


@pytest.mark.parametrize("layout", ["packed", "rows"])
@settings(derandomize=True, deadline=None, max_examples=60)
@given(examples=example_lists())
def test_predictors_stand_one_position_before_their_targets_in_the_prompt_or_the_same_completion(layout, examples):
    for batch in micro_batches(examples, Packing(layout=layout, tokens=60, row_tokens=30)):
        ids, position = batch.input_ids.flatten(), batch.position_ids.flatten()
        owner, branch = batch.example_ids.flatten(), batch.branch_ids.flatten()
        lengths = {c: int((batch.completion_index == c).sum()) for c in range(batch.completions)}
        seen = dict.fromkeys(lengths, 0)
        for predictor, completion in zip(batch.predictor_index.tolist(), batch.completion_index.tolist(), strict=True):
            number = int(batch.example_index[completion])
            prompt = len(examples[batch.example_keys[number] - 100].prompt_ids)
            assert owner[predictor] == number
            assert position[predictor] == prompt - 1 + seen[completion]
            assert branch[predictor] == 0 if seen[completion] == 0 else branch[predictor] > 0
            seen[completion] += 1
        for completion, terminal in enumerate(batch.terminal_index.tolist()):
            last = batch.target_ids[batch.completion_index == completion][-1]
            prompt = len(examples[batch.example_keys[int(batch.example_index[completion])] - 100].prompt_ids)
            assert ids[terminal] == last
            assert position[terminal] == prompt + lengths[completion] - 1
            assert branch[terminal] > 0


@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_completions_keep_their_order_chosen_first(layout):
    ranked = example(0, (10,), (21,), (22,), (23,))
    batch = collate([[ranked]], layout)
    assert batch.target_ids.tolist() == [21, 22, 23]
    assert batch.input_ids.flatten()[batch.terminal_index].tolist() == [21, 22, 23]
    assert batch.example_index.tolist() == [0, 0, 0]


@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_heads_read_the_last_token_where_the_padding_looks_like_the_terminator(layout):
    # Padding holds id 0; here 0 ends completions too, and stands in one and in a prompt.
    short, long = example(0, (5, 0), (6, 0), (0,)), example(1, (5,), (6, 0, 7, 8, 0), (9, 9, 9, 9, 0))
    batch = collate([[short], [long]], layout)
    position = batch.position_ids.flatten()[batch.terminal_index]
    # prompt length + completion length - 1
    assert position.tolist() == [3, 2, 5, 5]
    assert (batch.example_ids.flatten()[batch.terminal_index] == batch.example_index).all()
    assert (batch.input_ids == 0).sum() > (batch.example_ids < 0).sum() > 0


@pytest.mark.parametrize("layout", ["packed", "rows"])
@settings(derandomize=True, deadline=None, max_examples=60)
@given(examples=example_lists())
def test_a_prompt_ends_where_its_completions_are_first_predicted(layout, examples):
    for batch in micro_batches(examples, Packing(layout=layout, tokens=60, row_tokens=30)):
        first = {int(batch.completion_index[n]): n for n in reversed(range(batch.completion_tokens))}
        owners = batch.example_index.tolist()
        assert batch.completion_counts == tuple(owners.count(number) for number in range(batch.examples))
        for number, place in enumerate(batch.prompt_index.tolist()):
            assert place == batch.predictor_index[first[owners.index(number)]]


@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_feedback_stands_beside_the_completion_it_is_about(layout):
    rated = EncodedExample(
        key=3, prompt_ids=(5,), completion_ids=((6,), (7,), (8,)), ranks=(0, 0, 1), desirable=(True, True, False),
        ratings={"x": (4.0, 4.0, 1.0)}, source="left",
    )  # fmt: skip
    other = EncodedExample(key=4, prompt_ids=(5,), completion_ids=((9,),), desirable=(False,), ratings={"y": (2.0,)}, source="right")
    batch = collate([[rated], [PAIR], [other]], layout)
    assert batch.target_ids.tolist() == [6, 7, 8, 20, 21, 30, 9]
    assert batch.ranks == (0, 0, 1, 0, 1, 0)
    assert batch.desirable == (True, True, False, True, False, False)
    assert batch.sources == ("left", "", "right")
    assert batch.completion_counts == (3, 2, 1)
    assert batch.ratings == {"x": (4.0, 4.0, 1.0, *[math.nan] * 3), "y": (*[math.nan] * 5, 2.0)}
    assert batch.ratings_of("x") == batch.ratings["x"]
    assert batch.ratings_of("z") == (math.nan,) * 6


@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_without_feedback_the_order_is_the_ranking_and_the_first_is_desirable(layout):
    batch = collate([[example(0, (10,), (21,), (22,), (23,))], [example(1, (10,), (21,))]], layout)
    assert batch.ranks == (0, 1, 2, 0)
    assert batch.desirable == (True, False, False, True)
    assert batch.ratings == {}
    assert batch.sources == ("", "")


@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_tensors_have_the_documented_types_and_none_is_a_float(layout):
    batch = collate([[PAIR]], layout)
    for name in INT64:
        assert getattr(batch, name).dtype == torch.int64, name
    for name in INT32:
        assert getattr(batch, name).dtype == torch.int32, name
    tensors = {field.name for field in dataclasses.fields(batch) if isinstance(getattr(batch, field.name), torch.Tensor)}
    assert tensors == {*INT64, *INT32}


@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_a_step_survives_lightnings_way_to_the_device(layout):
    batches = micro_batches([PAIR, example(8, (12,), (22,), (32, 33))], Packing(layout=layout, tokens=8, row_tokens=8))
    counts = {"": Counts(2, 4, 3), "mine": Counts(1, 1, 1)}
    step = StepBatch(micro_batches=batches, global_counts=counts, tokens=9, filled=9, mismatched=batches[:1])
    assert len(batches) == 2
    here = move_data_to_device(step, torch.device("cpu"))
    assert [lists(batch) for batch in here.micro_batches] == [lists(batch) for batch in batches]
    # The meta device shows that every tensor moves, and that nothing else is touched.
    there = move_data_to_device(step, torch.device("meta"))
    for before, after in zip(step.micro_batches, there.micro_batches, strict=True):
        assert {getattr(after, name).device.type for name in (*INT64, *INT32)} == {"meta"}
        plain = [field.name for field in dataclasses.fields(before) if field.name not in (*INT64, *INT32)]
        assert [getattr(after, name) for name in plain] == [getattr(before, name) for name in plain]
        assert before.input_ids.device.type == "cpu"
    assert {getattr(there.mismatched[0], name).device.type for name in (*INT64, *INT32)} == {"meta"}
    assert there.global_counts == counts
    assert there.global_counts["mine"].examples == 1, "Lightning rebuilds a tuple with names as one"
    assert [there.count(unit, None) for unit in ("examples", "completions", "chosen_tokens")] == [3, 5, 4]
    assert there.tokens == 9
