"""Looked up where it is known, computed where it is not, and the same number either way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from alignkit.batches import Layout, PackedBatch
from alignkit.caches import filling
from alignkit.caches.filling import Filled, Filler, Quantity
from alignkit.caches.quantities import TERMINAL_STATES, TOKEN_LOGPS
from alignkit.caches.store import Store
from alignkit.caches.values import CachedValues
from alignkit.data.collate import micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.models.backbone import Backbone
from alignkit.models.reference import CachedReference, backbone_logps
from alignkit.models.terminal_states import CachedStates, TrunkStates

ABOUT = {"values": "v", "function": "f"}
QUANTITIES = pytest.mark.parametrize("quantity", [TOKEN_LOGPS, TERMINAL_STATES], ids=lambda quantity: quantity.name)


@contextmanager
def no_bar(tokens: int) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


@pytest.fixture
def backbone(lm_factory) -> Backbone:
    return Backbone(lm_factory("llama"))


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Store:
    return Store(tmp_path / "f", ABOUT, said.append)


def filler(quantity: Quantity, backbone: Backbone, *, layout: Layout = "packed", tokens: int = 120, progress=no_bar) -> Filler:
    def batches(examples: Sequence[EncodedExample]) -> list[PackedBatch]:
        return micro_batches(examples, Packing(layout=layout, tokens=tokens, row_tokens=40))

    return Filler(quantity=quantity, backbone=backbone, batches=batches, progress=progress)


def alone(quantity: Quantity, backbone: Backbone, example: EncodedExample) -> Tensor:
    """The rows of one example, from the model's own forward pass over each sequence."""
    parts = []
    for completion in example.completion_ids:
        ids = torch.tensor([[*example.prompt_ids, *completion]])
        with torch.no_grad():
            if quantity is TERMINAL_STATES:
                parts.append(backbone.decoder(input_ids=ids).last_hidden_state[:, -1])
            else:
                logps = backbone.lm(ids).logits[0].log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[:, 0]
                parts.append(logps[-len(completion) :])
    return torch.cat(parts)


@QUANTITIES
@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_values_are_those_of_each_example_alone(quantity, layout, architecture, lm_factory, examples_factory, store):
    backbone = Backbone(lm_factory(architecture))
    examples = examples_factory(9)
    filled = filler(quantity, backbone, layout=layout).fill(store, examples, "waiting")
    assert (filled.reused, filled.computed) == (0, 9)
    for example in examples:
        expected = alone(quantity, backbone, example)
        assert filled.values[example.key].shape == expected.shape
        assert filled.values[example.key].dtype == torch.float32
        assert (filled.values[example.key] - expected).abs().max() < 1e-4
        assert not filled.values[example.key].requires_grad


@QUANTITIES
def test_a_second_time_nothing_is_computed_and_the_numbers_are_the_same_to_the_bit(quantity, backbone, examples_factory, store, said):
    examples = examples_factory(9)
    first = filler(quantity, backbone).fill(store, examples, "waiting")
    # other order, other cut, other layout, other keys
    renamed = {example.key: dataclasses.replace(example, key=100 + example.key) for example in reversed(examples)}
    second = filler(quantity, backbone, layout="rows", tokens=60).fill(store, list(renamed.values()), "waiting")
    assert (second.reused, second.computed) == (9, 0)
    assert all(torch.equal(first.values[key], second.values[other.key]) for key, other in renamed.items())
    assert said == []


def test_only_what_is_missing_is_computed(backbone, examples_factory, store, monkeypatch):
    examples = examples_factory(9)
    filler(TOKEN_LOGPS, backbone).fill(store, examples[:4], "waiting")
    seen: list[int] = []
    compute = TOKEN_LOGPS.compute
    spy = dataclasses.replace(TOKEN_LOGPS, compute=lambda model, batch: seen.extend(batch.example_keys) or compute(model, batch))
    filled = filler(spy, backbone).fill(store, examples, "waiting")
    assert (filled.reused, filled.computed) == (4, 5)
    assert sorted(seen) == [4, 5, 6, 7, 8]
    assert filled.values.keys() == set(range(9))


def test_what_was_set_aside_is_computed_again_and_is_right(backbone, examples_factory, store, said):
    examples = examples_factory(9)
    first = filler(TOKEN_LOGPS, backbone).fill(store, examples, "waiting")
    kept = {key: value.clone() for key, value in first.values.items()}
    (file,) = store.folder.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-5] ^= 64  # the exponent of a value: no reader could tell from the number
    file.unlink()  # as a file that another process wrote; the old one is still mapped here
    file.write_bytes(content)
    second = filler(TOKEN_LOGPS, backbone).fill(store, examples, "waiting")
    assert (second.reused, second.computed) == (0, 9)
    assert "is damaged" in said[0]
    assert all(torch.equal(kept[key], second.values[key]) for key in kept)
    assert filler(TOKEN_LOGPS, backbone).fill(store, examples, "waiting").reused == 9


def test_examples_of_equal_content_share_one_value(backbone, examples_factory, store):
    (example,) = examples_factory(1)
    twins = [example, dataclasses.replace(example, key=50, margin=2.0)]
    filled = filler(TOKEN_LOGPS, backbone).fill(store, twins, "waiting")
    assert filled.computed == 2
    assert torch.equal(filled.values[0], filled.values[50])
    assert filler(TOKEN_LOGPS, backbone).fill(store, twins, "waiting").reused == 2


def test_keys_that_name_two_examples_are_our_own_mistake(backbone, examples_factory, store):
    with pytest.raises(AssertionError, match="keys of examples"):
        filler(TOKEN_LOGPS, backbone).fill(store, [*examples_factory(2), *examples_factory(1, seed=5)], "waiting")


def test_an_interruption_loses_nothing_that_was_computed(backbone, examples_factory, store):
    done = []

    @contextmanager
    def interrupted(tokens: int) -> Iterator[Callable[[int], None]]:
        def advance(count: int) -> None:
            done.append(count)
            if len(done) == 2:
                raise SystemExit(143)

        yield advance

    examples = examples_factory(30)
    with pytest.raises(SystemExit):
        filler(TOKEN_LOGPS, backbone, tokens=60, progress=interrupted).fill(store, examples, "waiting")
    filled = filler(TOKEN_LOGPS, backbone).fill(store, examples, "waiting")
    assert 0 < filled.reused < 30
    assert filled.reused + filled.computed == 30


def test_long_computing_is_written_in_several_files(backbone, examples_factory, store, monkeypatch):
    monkeypatch.setattr(filling, "SEGMENT_SECONDS", 0.0)
    examples = examples_factory(30)
    filled = filler(TOKEN_LOGPS, backbone, tokens=60).fill(store, examples, "waiting")
    assert len(list(store.folder.glob("*.safetensors"))) > 3
    assert filled.values.keys() == set(range(30))
    assert filler(TOKEN_LOGPS, backbone).fill(store, examples, "waiting").reused == 30


def test_the_bar_counts_all_tokens(backbone, examples_factory, store):
    counted: dict[str, int] = {"done": 0}

    @contextmanager
    def bar(tokens: int) -> Iterator[Callable[[int], None]]:
        counted["all"] = tokens
        yield lambda done: counted.update(done=counted["done"] + done)

    examples = examples_factory(9)
    filler(TOKEN_LOGPS, backbone, progress=bar).fill(store, examples, "waiting")
    assert counted["done"] == counted["all"] == sum(example.packed_tokens for example in examples)


@QUANTITIES
def test_where_nothing_can_be_written_values_are_in_memory_and_right(quantity, backbone, examples_factory, said, tmp_path):
    (tmp_path / "file").touch()
    filled = filler(quantity, backbone).fill(Store(tmp_path / "file" / "f", ABOUT, said.append), examples_factory(9), "waiting")
    assert (filled.reused, filled.computed) == (0, 9)
    for example in examples_factory(9):
        assert (filled.values[example.key] - alone(quantity, backbone, example)).abs().max() < 1e-4
    assert len(said) == 1


def test_a_disk_that_loses_what_it_was_given_is_not_trusted(backbone, examples_factory, store, monkeypatch):
    write = store.write

    def lose(values) -> bool:
        written = write(values)
        for file in store.folder.glob("*.safetensors"):
            file.write_bytes(b"")
        return written

    monkeypatch.setattr(Store, "write", lambda self, values: lose(values))
    filled = filler(TOKEN_LOGPS, backbone).fill(store, examples_factory(9), "waiting")
    assert filled.computed == 9
    for example in examples_factory(9):
        assert (filled.values[example.key] - alone(TOKEN_LOGPS, backbone, example)).abs().max() < 1e-4


def loaded(cached: CachedReference | CachedStates, filled: Filled):
    cached.load(filled.values)
    return cached


@pytest.mark.parametrize("completions", [1, 2, 3])
@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_a_batch_finds_its_values_in_its_own_order(layout, completions, backbone, examples_factory, store, tmp_path):
    examples = examples_factory(12, completions=completions)
    reference = loaded(CachedReference(backbone), filler(TOKEN_LOGPS, backbone).fill(store, examples, "waiting"))
    other = Store(tmp_path / "g", ABOUT, print)
    states = loaded(CachedStates(), filler(TERMINAL_STATES, backbone).fill(other, examples, "waiting"))
    batches = micro_batches(examples[::-1], Packing(layout=layout, tokens=70, row_tokens=30))
    assert len(batches) > 2
    with torch.no_grad():
        for batch in batches:
            assert (reference.token_logps(batch) - backbone_logps(backbone, batch)).abs().max() < 1e-4
            assert (states(batch) - TrunkStates(backbone)(batch)).abs().max() < 1e-4


def test_a_batch_of_other_completions_is_not_answered(backbone, examples_factory, store):
    examples = examples_factory(4)
    reference = loaded(CachedReference(backbone), filler(TOKEN_LOGPS, backbone).fill(store, examples, "waiting"))
    (batch,) = micro_batches(examples_factory(4, seed=5), Packing(layout="packed", tokens=1000, row_tokens=60))
    with pytest.raises(AssertionError, match="other completions"):
        reference.token_logps(batch)


def test_the_model_is_let_go_when_its_values_are_known(backbone):
    reference = CachedReference(backbone)
    assert reference.backbone is backbone
    reference.load({})
    assert reference.backbone is None


def test_looked_up_values_are_copies_that_a_loss_may_change(backbone, examples_factory, store):
    (example,) = examples_factory(1)
    filled = filler(TOKEN_LOGPS, backbone).fill(store, [example], "waiting")
    values = CachedValues()
    values.load(filled.values)
    (batch,) = micro_batches([example], Packing(layout="packed", tokens=100, row_tokens=60))
    before = values.rows(batch).clone()
    values.rows(batch).zero_()
    assert torch.equal(values.rows(batch), before)
