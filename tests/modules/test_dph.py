"""Preference heads alone and beside cDPO, against both losses worked out from plain forward passes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from alignkit.data.collate import micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.models.backbone import Backbone
from alignkit.modules.alignment import AlignmentModule

WEIGHT, BETA, DPO_EPSILON, EPSILON = 0.5, 0.1, 0.2, 0.1
"""What conftest's joint modules are built with."""


def sequence(example: EncodedExample, side: int) -> Tensor:
    return torch.tensor([[*example.prompt_ids, *example.completion_ids[side]]])


def logp(lm: PreTrainedModel, example: EncodedExample, side: int) -> float:
    """Sum of the completion's log-probs, from logits of one sequence."""
    ids = sequence(example, side)
    start = len(example.prompt_ids)
    logps = lm(ids).logits[0].log_softmax(-1)
    return float(sum(logps[place - 1, ids[0, place]] for place in range(start, ids.shape[1])))


def score(module: AlignmentModule, example: EncodedExample, side: int) -> float:
    """w . h at the last token."""
    state = module.backbone.decoder(sequence(example, side)).last_hidden_state[0, -1]
    return float(state @ module.heads.head("dph").score.weight[0])


def nll(margin: float, epsilon: float) -> float:
    """-(1 - epsilon) ln sigmoid(margin) - epsilon ln sigmoid(-margin)"""
    return (1 - epsilon) * math.log1p(math.exp(-margin)) + epsilon * math.log1p(math.exp(margin))


def head_loss(objective: str, chosen: float, rejected: float) -> float:
    if objective.endswith("con_dph"):
        return nll(chosen - rejected, EPSILON)
    return nll(chosen, EPSILON) + nll(-rejected, EPSILON)


@pytest.fixture
def reference(lm_factory) -> PreTrainedModel:
    """Another model than the policy."""
    lm = lm_factory("gpt2", dtype=torch.float64)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.mul_(1.1)
    return lm


@pytest.mark.parametrize("layout", ["packed", "rows"])
@pytest.mark.parametrize("objective_name", ["con_dph", "sep_dph", "joint_con_dph", "joint_sep_dph"])
def test_the_loss_is_the_heads_plus_the_weighted_cdpo(
    layout, objective_name, losses_of, lm_factory, reference, examples_factory, module_factory
):
    module = module_factory(objective_name, lm_factory("gpt2", dtype=torch.float64), reference=reference)
    examples = {example.key: example for example in examples_factory(5)}
    joint = objective_name.startswith("joint_")
    with torch.no_grad():
        (batch,) = micro_batches(list(examples.values()), Packing(layout=layout, tokens=10_000, row_tokens=60))
        evaluation = module.evaluate(batch)
        losses = losses_of(module, batch)
        for row, key in enumerate(batch.example_keys):
            chosen, rejected = (score(module, examples[key], side) for side in (0, 1))
            policy, plain = ([logp(lm, examples[key], side) for side in (0, 1)] for lm in (module.backbone.lm, reference))
            implicit = [BETA * (ours - theirs) for ours, theirs in zip(policy, plain, strict=True)]
            head, dpo = head_loss(objective_name, chosen, rejected), nll(implicit[0] - implicit[1], DPO_EPSILON)
            assert abs(implicit[0]) > 1e-3
            assert losses[row].item() == pytest.approx(head + WEIGHT * dpo if joint else head, abs=1e-6)
            expected = {} if joint else {"loss": head}
            expected |= {"rewards/chosen": chosen, "rewards/rejected": rejected, "rewards/margins": chosen - rejected}
            expected["rewards/accuracies"] = float(chosen > rejected)
            if joint:
                expected |= {"implicit_rewards/chosen": implicit[0], "implicit_rewards/rejected": implicit[1]}
                expected |= {"implicit_rewards/margins": implicit[0] - implicit[1]}
                expected |= {"implicit_rewards/accuracies": float(implicit[0] > implicit[1])}
                expected |= {"loss/head": head, "loss/dpo": dpo, "logps/chosen": policy[0], "logps/rejected": policy[1]}
            assert {name: values[row].item() for name, values in evaluation.metrics.items()} == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("objective_name", ["con_dph", "sep_dph"])
def test_with_dpo_weight_0_there_is_no_reference_and_no_log_prob(
    objective_name, lm_factory, examples_factory, module_factory, fit, monkeypatch
):
    def refuse(*args, **kwargs):
        raise AssertionError("log-probs were computed")

    monkeypatch.setattr(Backbone, "token_scores", refuse)
    module = module_factory(objective_name, lm_factory("llama"))
    assert module.reference is None
    fit(module, examples_factory(8), validation=examples_factory(2))
    assert module.steps_done == 4


def test_with_a_joint_term_log_probs_are_computed_for_policy_and_reference(lm_factory, examples_factory, module_factory, monkeypatch):
    callers, original = [], Backbone.token_scores

    def spy(self, hidden, batch):
        callers.append(self)
        return original(self, hidden, batch)

    monkeypatch.setattr(Backbone, "token_scores", spy)
    module = module_factory("joint_con_dph", lm_factory("llama"))
    (batch,) = micro_batches(examples_factory(4), Packing(layout="packed", tokens=1000, row_tokens=60))
    module.evaluate(batch)
    assert len(callers) == 2
    assert {id(backbone) for backbone in callers} == {id(module.backbone), id(module.reference.backbone)}


def test_the_trunk_runs_once_for_head_and_log_probs(lm_factory, examples_factory, module_factory, monkeypatch):
    calls, original = [], Backbone.hidden_states

    def spy(self, batch):
        calls.append(self)
        return original(self, batch)

    monkeypatch.setattr(Backbone, "hidden_states", spy)
    module = module_factory("joint_con_dph", lm_factory("llama"))
    (batch,) = micro_batches(examples_factory(4), Packing(layout="packed", tokens=1000, row_tokens=60))
    module.evaluate(batch)
    assert [backbone is module.backbone for backbone in calls].count(True) == 1


def test_each_term_has_its_own_gradient(lm_factory, reference, examples_factory, module_factory):
    (batch,) = micro_batches(examples_factory(4), Packing(layout="packed", tokens=1000, row_tokens=60))

    def gradients(objective_name: str) -> dict[str, Tensor]:
        module = module_factory(objective_name, lm_factory("gpt2", dtype=torch.float64), reference=reference)
        module.evaluate(batch).sum().backward()
        assert all(parameter.grad is None for parameter in reference.parameters())
        return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}

    alone, joint = gradients("con_dph"), gradients("joint_con_dph")
    # the head knows nothing of cDPO, the trunk hears of both
    assert torch.allclose(alone["heads.dph.score.weight"], joint["heads.dph.score.weight"], atol=1e-12)
    trunk = "backbone.lm.transformer.h.0.mlp.c_fc.weight"
    assert (alone[trunk] - joint[trunk]).abs().max() > 1e-6
