"""What heads read: the trunk's state at the last token of each completion, or its states at all of them."""

from __future__ import annotations

import pytest
import torch

from alignkit.data.collate import collate, micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.models.backbone import Backbone
from alignkit.models.terminal_states import TrunkStates, completion_positions, head_inputs, terminal_states


@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_the_states_are_those_of_each_sequence_alone(layout, lm_factory, examples_factory):
    backbone = Backbone(lm_factory("gpt2"))
    examples = {example.key: example for example in examples_factory(5, completions=3)}
    (batch,) = micro_batches(list(examples.values()), Packing(layout=layout, tokens=10_000, row_tokens=60))
    states = iter(TrunkStates(backbone)(batch))
    for key in batch.example_keys:
        for completion in examples[key].completion_ids:
            ids = torch.tensor([[*examples[key].prompt_ids, *completion]])
            assert (next(states) - backbone.decoder(input_ids=ids).last_hidden_state[0, -1]).abs().max() < 1e-4
    assert next(states, None) is None


@pytest.mark.parametrize(("layout", "positions"), [("packed", [2, 3, 4, 6]), ("rows", [2, 3, 6, 9])])
def test_positions_of_completion_tokens_by_hand(layout, positions):
    # The worked example of `alignkit.batches`, p0 p1 a0 a1 b0, and a second one, q0 c0; rows are four tokens long.
    pair = EncodedExample(key=0, prompt_ids=(5, 6), completion_ids=((7, 2), (2,)))
    single = EncodedExample(key=1, prompt_ids=(8,), completion_ids=((2,),))
    batch = collate([[pair, single]], layout)
    assert completion_positions(batch).tolist() == positions


@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_positions_hold_the_completion_tokens_themselves(layout, examples_factory):
    batch = collate([examples_factory(3, completions=3), examples_factory(2, seed=1)], layout)
    positions = completion_positions(batch)
    assert torch.equal(batch.input_ids.flatten()[positions], batch.target_ids)
    last = torch.bincount(batch.completion_index).cumsum(0) - 1
    assert torch.equal(positions[last], batch.terminal_index)


def test_one_completion_of_one_token_has_one_position():
    batch = collate([[EncodedExample(key=0, prompt_ids=(5, 6, 7), completion_ids=((2,),))]], "packed")
    assert completion_positions(batch).tolist() == [3]


@pytest.mark.parametrize("with_tokens", [False, True])
def test_inputs_of_heads_hold_each_layer_where_completions_end_and_at_their_tokens(with_tokens, examples_factory):
    batch = collate([examples_factory(3)], "packed")
    layers = [torch.randn(batch.input_ids.numel(), 4) for _ in range(3)]
    inputs = head_inputs(layers, [0, 2, -1], batch, with_tokens=with_tokens)
    assert inputs.layers == (0, 2, -1)
    assert inputs.terminal.shape == (6, 3, 4)
    for place, states in enumerate(layers):
        assert torch.equal(inputs.terminal[:, place], terminal_states(states, batch))
        if inputs.tokens is not None:
            assert torch.equal(inputs.tokens[:, place], states[completion_positions(batch)])
    assert (inputs.tokens is not None) == with_tokens
    assert torch.equal(inputs.completion_index, batch.completion_index)
