"""What terms read of a batch, whatever order packing gave it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from alignkit.batches import PackedBatch
from alignkit.data.collate import micro_batches
from alignkit.data.packing import Packing
from alignkit.losses.bradley_terry import BradleyTerry
from alignkit.models.backbone import Backbone
from alignkit.models.heads import Heads
from alignkit.modules.forward import Forward, Parts
from alignkit.modules.objective import Objective
from alignkit.modules.term import Place
from alignkit.modules.term_kinds import build_term


def forward_of(backbone: Backbone, batch: PackedBatch) -> Forward:
    return Forward(Parts(backbone=backbone, heads=Heads(backbone.hidden_width, {}), reference=None), batch)


@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_log_probs_and_lengths_of_both_sides_are_the_models_own(layout, lm_factory, examples_factory):
    backbone = Backbone(lm_factory("llama"))
    examples = {example.key: example for example in examples_factory(6)}
    for batch in micro_batches(list(examples.values()), Packing(layout=layout, tokens=60, row_tokens=40)):
        forward = forward_of(backbone, batch)
        pairs = forward.pairs(forward.policy, forward.select(None))
        for row, key in enumerate(batch.example_keys):
            for side, (logps, tokens) in enumerate([(pairs.chosen, pairs.chosen_tokens), (pairs.rejected, pairs.rejected_tokens)]):
                completion = examples[key].completion_ids[side]
                ids = torch.tensor([[*examples[key].prompt_ids, *completion]])
                plain = backbone.lm(ids).logits[0].log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[-len(completion) :].sum()
                assert logps[row].item() == pytest.approx(plain.item(), abs=1e-3)
                assert tokens[row] == len(completion)


def test_rating_gaps_stay_with_their_pairs(monkeypatch, lm_factory, examples_factory):
    backbone = Backbone(lm_factory("llama"))
    examples = [dataclasses.replace(example, margin=float(example.key)) for example in examples_factory(6)]
    batches = micro_batches(examples, Packing(layout="packed", tokens=60, row_tokens=40))
    assert [key for batch in batches for key in batch.example_keys] != list(range(6))
    for batch in batches:
        forward = forward_of(backbone, batch)
        monkeypatch.setattr(forward, "scores", lambda head, count=2 * batch.examples: torch.arange(float(count)))
        rewards = forward.pair_rewards("any", forward.select(None))
        assert rewards.margins.tolist() == list(batch.example_keys)
        assert rewards.chosen.tolist() == [2.0 * n for n in range(batch.examples)]
        assert rewards.rejected.tolist() == [2.0 * n + 1 for n in range(batch.examples)]


def test_the_reward_loss_subtracts_the_rating_gap_of_each_pair(lm_factory, examples_factory, module_factory):
    # -ln sigmoid(r_chosen - r_rejected - gap) + .01 (r_chosen + r_rejected)^2
    module = module_factory("bradley_terry", lm_factory("llama"))
    loss = BradleyTerry(use_margin=True, centering=0.01)
    module.objective = Objective([build_term(loss, Place(name="reward", head="dph"))])
    examples = [dataclasses.replace(example, margin=0.5 * example.key) for example in examples_factory(4)]
    (batch,) = micro_batches(examples, Packing(layout="packed", tokens=1000, row_tokens=60))
    evaluation = module.evaluate(batch)
    chosen, rejected = evaluation.metrics["rewards/chosen"], evaluation.metrics["rewards/rejected"]
    gaps = torch.tensor([0.5 * key for key in batch.example_keys])
    expected = (1 + (-(chosen - rejected - gaps)).exp()).log() + 0.01 * (chosen + rejected) ** 2
    assert torch.allclose(evaluation.outputs["reward"].losses, expected, atol=1e-5)
