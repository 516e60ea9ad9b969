"""A rollout's ragged tensors, by hand."""

from __future__ import annotations

import io

import pytest
import torch

from alignkit.data.collate import collate, micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.rollout import Rollout, in_order, joined

EXAMPLES = (
    EncodedExample(key=4, prompt_ids=(5, 6), completion_ids=((7, 8, 2), (9,)), source="a"),
    EncodedExample(key=9, prompt_ids=(5,), completion_ids=((3, 2), (4, 4, 4), (2,))),
)


def rollout(examples: tuple[EncodedExample, ...] = EXAMPLES, *, first: float = 0.0, with_values: bool = True) -> Rollout:
    """Token n has log-prob -n; the reference's is half of that, so that every log-ratio is -n / 2."""
    count = sum(len(ids) for example in examples for ids in example.completion_ids)
    logps = -(torch.arange(count) + first)
    return Rollout(
        examples=examples,
        sampled_logps=logps - 0.25,
        scores=torch.arange(sum(len(example.completion_ids) for example in examples)).float() + first,
        logps=logps,
        reference_logps=logps / 2,
        values=logps * 10 if with_values else None,
    )


def test_tokens_know_their_completions_and_completions_their_prompts():
    assert rollout().completion_index.tolist() == [0, 0, 0, 1, 2, 2, 3, 3, 3, 4]
    assert rollout().example_index.tolist() == [0, 0, 1, 1, 1]


def test_the_kl_of_a_completion_is_the_sum_of_its_log_ratios():
    # -(0 + 1 + 2) / 2, -3 / 2, -(4 + 5) / 2, -(6 + 7 + 8) / 2, -9 / 2
    assert rollout().kl.tolist() == [-1.5, -1.5, -4.5, -10.5, -4.5]
    double = rollout()
    double = Rollout(**{**{name: getattr(double, name) for name in double.__dataclass_fields__}, "logps": double.logps.double()})
    assert double.kl.dtype == torch.float64


def test_advantages_are_told_the_same():
    scored = rollout().scored()
    assert scored.scores.tolist() == [0, 1, 2, 3, 4]
    assert scored.completion_index.tolist() == rollout().completion_index.tolist()
    assert scored.example_index.tolist() == [0, 0, 1, 1, 1]
    assert scored.values is not None
    assert rollout(with_values=False).scored().values is None


def test_a_batch_finds_its_tokens_whatever_its_order():
    both, last = collate([[EXAMPLES[1]], [EXAMPLES[0]]], "packed"), collate([[EXAMPLES[1]]], "rows")
    assert both.target_ids.tolist() == [3, 2, 4, 4, 4, 2, 7, 8, 2, 9]
    assert rollout().places(both).tolist() == [4, 5, 6, 7, 8, 9, 0, 1, 2, 3]
    assert rollout().places(last).tolist() == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("packing", [Packing(layout="packed", tokens=8, row_tokens=8), Packing(layout="rows", tokens=100)])
def test_values_of_batches_are_put_in_the_order_of_the_examples(packing):
    batches = micro_batches(EXAMPLES, packing)
    tokens = [batch.target_ids for batch in batches]
    said = list(zip([batch.example_keys for batch in batches], tokens, strict=True))
    assert in_order(EXAMPLES, said).tolist() == [7, 8, 2, 9, 3, 2, 4, 4, 4, 2]


def test_joined_rollouts_have_keys_that_differ_and_find_their_tokens():
    old = rollout(EXAMPLES[:1], first=100)
    whole = joined([rollout(), old])
    assert [example.key for example in whole.examples] == [0, 1, 2]
    assert [example.source for example in whole.examples] == ["a", "", "a"]
    assert whole.completion_index.tolist() == [0, 0, 0, 1, 2, 2, 3, 3, 3, 4, 5, 5, 5, 6]
    assert whole.example_index.tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert whole.scores.tolist() == [0, 1, 2, 3, 4, 100, 101]
    batch = collate([[whole.examples[2]]], "packed")
    assert whole.logps[whole.places(batch)].tolist() == [-100, -101, -102, -103]
    assert whole.values is not None
    assert joined([rollout(with_values=False)] * 2).values is None


@pytest.mark.parametrize("with_values", [True, False])
def test_a_checkpoint_that_is_read_without_running_anything_gives_it_back(with_values):
    before, file = rollout(with_values=with_values), io.BytesIO()
    torch.save(before.state(), file)
    file.seek(0)
    after = Rollout.from_state(torch.load(file, weights_only=True))
    assert after.examples == before.examples
    for name in ("sampled_logps", "scores", "logps", "reference_logps"):
        assert torch.equal(getattr(after, name), getattr(before, name)), name
    assert (after.values is None) == (before.values is None) == (not with_values)
    if before.values is not None:
        assert torch.equal(after.values, before.values)
