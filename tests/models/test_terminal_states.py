"""What heads read: the trunk's state at the last token of each completion."""

from __future__ import annotations

import pytest
import torch

from alignkit.data.collate import micro_batches
from alignkit.data.packing import Packing
from alignkit.models.backbone import Backbone
from alignkit.models.terminal_states import TrunkStates


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
