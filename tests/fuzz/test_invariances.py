"""What must change no loss: the order and cut of a batch, what stands on padding, a constant added to logits, who else is in the batch."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from alignkit.batches import PackedBatch, StepBatch
from alignkit.data.collate import collate, micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.data.steps import count_by_source
from alignkit.logps import token_scores

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder
from trials import fuzz

LENGTHS = st.sampled_from([1, 1, 2, 3, 8, 13])
"""Unequal, so that a mean of means is no mean."""
IDS = LENGTHS.flatmap(lambda length: st.lists(st.integers(3, 96), min_size=length, max_size=length)).map(tuple)
PAIRS = st.lists(st.tuples(IDS, IDS, IDS).filter(lambda ids: ids[1] != ids[2]), min_size=2, max_size=6)
MARGINS = st.floats(-1e4, 1e4, allow_subnormal=False) | st.sampled_from([0.0, -0.0, 1e-8, 50.0, -1e4])


def examples_of(parts: Sequence[tuple[tuple[int, ...], ...]], completions: int | None) -> list[EncodedExample]:
    return [EncodedExample(key=n, prompt_ids=ids[0], completion_ids=ids[1:][:completions]) for n, ids in enumerate(parts)]


def step_of(batches: Sequence[PackedBatch], examples: Sequence[EncodedExample]) -> StepBatch:
    return StepBatch(micro_batches=list(batches), global_counts=count_by_source(examples), tokens=0, filled=0, mismatched=[])


def loss_and_gradient(module: Any, step: StepBatch) -> tuple[float, Tensor]:
    """The mean over the global batch, accumulated over its micro-batches, and its whole gradient as one vector."""
    module.zero_grad()
    total = 0.0
    for batch in step.micro_batches:
        loss = module.objective.loss(module.evaluate(batch), step)
        loss.backward()
        total += float(loss.detach())
    return total, torch.cat([parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None])


@pytest.mark.parametrize("objective_name", ["sft", "ipo_avg", "joint_con_dph"])
def test_however_a_step_is_ordered_cut_and_padded_its_loss_and_gradient_are_the_same(
    objective_name: str, lm_factory: Callable[..., Any], module_factory: Callable[..., Any]
) -> None:
    reference = lm_factory("gpt2", dtype=torch.float64)
    policy = lm_factory("gpt2", dtype=torch.float64)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.05)
    module = module_factory(objective_name, policy, reference=reference)

    @fuzz(5)
    @given(parts=PAIRS, data=st.data())
    def on(parts: list[tuple[tuple[int, ...], ...]], data: st.DataObject) -> None:
        examples = examples_of(parts, module.objective.form().completions)
        order = data.draw(st.permutations(examples))
        packing = Packing(
            layout=data.draw(st.sampled_from(["packed", "rows"])), tokens=data.draw(st.integers(1, 200)), row_tokens=40, multiple=8
        )
        alone = [collate([[example]], "packed") for example in examples]
        whole = [collate([[example] for example in order], "packed")]  # padded to the longest
        for batch in whole:
            batch.input_ids[batch.example_ids < 0] = data.draw(st.integers(0, 96))
        cut = micro_batches(order, packing, at_least=3)
        loss, gradient = loss_and_gradient(module, step_of(alone, examples))
        for batches in (whole, cut):
            other, others = loss_and_gradient(module, step_of(batches, examples))
            assert abs(loss - other) <= 1e-10 * max(1.0, abs(loss))
            assert float((gradient - others).norm()) <= 1e-10 * max(1.0, float(gradient.norm()))

    on()


@fuzz(60)
@given(
    constant=st.floats(-1e3, 1e3),
    targets=st.lists(st.integers(0, 10), min_size=1, max_size=9),
    scale=st.sampled_from([1e-6, 1.0, 1e3]),
    seed=st.integers(0, 2**31),
)
def test_log_probs_know_no_constant_and_no_neighbours(constant: float, targets: list[int], scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(len(targets), 5, generator=generator, dtype=torch.float64) * scale
    weight, bias = torch.randn(11, 5, generator=generator, dtype=torch.float64), torch.randn(11, generator=generator, dtype=torch.float64)
    wanted = torch.tensor(targets)
    logps = token_scores(hidden, weight, bias, wanted).logps
    expected = (hidden @ weight.T + bias).log_softmax(-1)[torch.arange(len(targets)), wanted]
    for other in (
        expected,
        token_scores(hidden, weight, bias + constant, wanted).logps,
        token_scores(hidden.flip(0), weight, bias, wanted.flip(0)).logps.flip(0),
        torch.cat([token_scores(hidden[n : n + 1], weight, bias, wanted[n : n + 1]).logps for n in range(len(targets))]),
    ):
        torch.testing.assert_close(logps, other, rtol=1e-10, atol=1e-10)


@pytest.fixture(scope="module")
def families() -> Any:
    """`tests/losses/test_families.py`, which builds every loss and evaluates it on log-ratios or scores."""
    spec = importlib.util.spec_from_file_location("families_of_losses", Path(__file__).parents[1] / "losses" / "test_families.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@fuzz(15)
@given(sides=st.lists(st.tuples(MARGINS, MARGINS), min_size=1, max_size=6), data=st.data())
def test_the_losses_of_pairs_follow_them_in_any_order_and_swapping_a_pair_mirrors_its_margin(
    sides: list[tuple[float, float]], data: st.DataObject, families: Any
) -> None:
    known = families
    order = torch.tensor(data.draw(st.permutations(range(len(sides)))))
    chosen, rejected = (torch.tensor(column, dtype=torch.float64) for column in zip(*sides, strict=True))
    for name, loss in known.BUILT.items():
        if not isinstance(loss, known.OF_PAIRS):
            continue
        output, swapped = known.evaluate(loss, chosen, rejected), known.evaluate(loss, rejected, chosen)
        assert output.losses.isfinite().all(), name
        moved = known.evaluate(loss, chosen[order], rejected[order])
        torch.testing.assert_close(moved.losses, output.losses[order], rtol=1e-10, atol=1e-10, msg=name)
        if name not in known.PENALTIES:
            assert torch.equal(swapped.margins, -output.margins), name
            assert torch.equal(swapped.accuracies, 1 - output.accuracies), name
            assert all(map(math.isfinite, output.margins.tolist())), name
