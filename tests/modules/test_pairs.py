"""Sides of pairs out of a batch, whatever order packing gave them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from alignkit.data.collate import micro_batches
from alignkit.data.packing import Packing
from alignkit.losses.bradley_terry import BradleyTerry
from alignkit.models.backbone import Backbone
from alignkit.models.reference import backbone_logps
from alignkit.modules.pairs import pair_logps, pair_rewards


@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_log_probs_and_lengths_of_both_sides_are_the_models_own(layout, lm_factory, examples_factory):
    backbone = Backbone(lm_factory("llama"))
    examples = {example.key: example for example in examples_factory(6)}
    for batch in micro_batches(list(examples.values()), Packing(layout=layout, tokens=60, row_tokens=40)):
        pairs = pair_logps(backbone_logps(backbone, batch), batch)
        for row, key in enumerate(batch.example_keys):
            for side, (logps, tokens) in enumerate([(pairs.chosen, pairs.chosen_tokens), (pairs.rejected, pairs.rejected_tokens)]):
                completion = examples[key].completion_ids[side]
                ids = torch.tensor([[*examples[key].prompt_ids, *completion]])
                plain = backbone.lm(ids).logits[0].log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])[-len(completion) :].sum()
                assert logps[row].item() == pytest.approx(plain.item(), abs=1e-3)
                assert tokens[row] == len(completion)


def test_rating_gaps_stay_with_their_pairs(examples_factory):
    examples = [dataclasses.replace(example, margin=float(example.key)) for example in examples_factory(6)]
    batches = micro_batches(examples, Packing(layout="packed", tokens=60, row_tokens=40))
    assert [key for batch in batches for key in batch.example_keys] != list(range(6))
    for batch in batches:
        rewards = pair_rewards(torch.arange(2.0 * batch.examples), batch)
        assert rewards.margins.tolist() == list(batch.example_keys)
        assert rewards.chosen.tolist() == [2.0 * n for n in range(batch.examples)]
        assert rewards.rejected.tolist() == [2.0 * n + 1 for n in range(batch.examples)]


def test_the_reward_loss_subtracts_the_rating_gap_of_each_pair(lm_factory, examples_factory, module_factory):
    # -ln sigmoid(r_chosen - r_rejected - gap) + .01 (r_chosen + r_rejected)^2
    module = module_factory("bradley_terry", lm_factory("llama"))
    module.loss = BradleyTerry(use_margin=True, centering=0.01)
    examples = [dataclasses.replace(example, margin=0.5 * example.key) for example in examples_factory(4)]
    (batch,) = micro_batches(examples, Packing(layout="packed", tokens=1000, row_tokens=60))
    objective = module.objective(batch)
    chosen, rejected = objective.metrics["rewards/chosen"], objective.metrics["rewards/rejected"]
    gaps = torch.tensor([0.5 * key for key in batch.example_keys])
    expected = (1 + (-(chosen - rejected - gaps)).exp()).log() + 0.01 * (chosen + rejected) ** 2
    assert torch.allclose(objective.losses, expected, atol=1e-5)
