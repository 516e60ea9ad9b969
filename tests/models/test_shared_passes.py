"""A reference that a head reads runs once a batch, and says what it would say by itself."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from alignkit.data.collate import micro_batches
from alignkit.data.packing import Packing
from alignkit.models.backbone import Backbone
from alignkit.models.reference import LiveReference
from alignkit.models.shared_passes import SharedPasses, is_same

PACKING = Packing(layout="packed", tokens=48)


class Counted:
    """A shared reference, and how often its trunk has run."""

    def __init__(self, lm, temperature: float = 1.0) -> None:
        self.reference = LiveReference(Backbone(lm))
        self.shared = SharedPasses(self.reference, temperature=temperature)
        self.runs = 0
        lm.base_model.register_forward_hook(self.count)

    def count(self, *args: object) -> None:
        self.runs += 1

    def alone(self, batch) -> torch.Tensor:
        """What the reference says of itself, not counted."""
        with torch.no_grad():
            backbone = self.reference.backbone
            logps = backbone.token_scores(backbone.hidden_states(batch), batch, temperature=self.shared.temperature).logps
        self.runs -= 1
        return logps


@pytest.fixture
def counted(lm_factory) -> Counted:
    return Counted(lm_factory("llama"), temperature=0.7)


@pytest.fixture
def batches(examples_factory):
    batches = micro_batches(examples_factory(8), PACKING)
    assert len(batches) > 2
    return batches


def test_what_a_head_has_read_is_not_run_again_for_its_log_probs(counted, batches, examples_factory):
    for batch in batches:
        counted.shared.hidden_layers(batch, [-1])
    # As another caller lays them out: equal tokens, other keys.
    renamed = [dataclasses.replace(example, key=example.key + 100) for example in examples_factory(8)]
    logps = [counted.shared.token_logps(batch) for batch in micro_batches(renamed, PACKING)]
    assert counted.runs == len(batches)
    for batch, said in zip(batches, logps, strict=True):
        assert torch.equal(said, counted.alone(batch))
        assert not said.requires_grad


def test_other_batches_and_other_layers_run_by_themselves(counted, batches):
    counted.shared.hidden_layers(batches[0], [-1])
    counted.shared.hidden_layers(batches[1], [1, -1])
    for batch in batches[1:]:
        assert torch.equal(counted.shared.token_logps(batch), counted.alone(batch))
    assert counted.runs == 2 + len(batches) - 1


def test_nothing_is_known_from_an_earlier_scoring(counted, batches):
    counted.shared.hidden_layers(batches[0], [-1])
    counted.shared.token_logps(batches[0])
    with torch.no_grad():
        counted.reference.backbone.lm.get_output_embeddings().weight.mul_(1.5)
    counted.shared.hidden_layers(batches[1], [-1])
    assert torch.equal(counted.shared.token_logps(batches[0]), counted.alone(batches[0]))


def test_equal_tokens_cut_elsewhere_are_another_batch(examples_factory):
    (example,) = examples_factory(1, completions=1)
    moved = dataclasses.replace(
        example, prompt_ids=(*example.prompt_ids, example.completion_ids[0][0]), completion_ids=(example.completion_ids[0][1:],)
    )
    left, right = (micro_batches([one], PACKING)[0] for one in (example, moved))
    assert torch.equal(left.input_ids, right.input_ids)
    assert is_same(left, left)
    assert not is_same(left, right)
