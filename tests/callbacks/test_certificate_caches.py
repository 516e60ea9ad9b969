"""What was looked up is what the model says: rounding passes, another model's values do not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from alignkit.batches import PackedBatch
from alignkit.caches.quantities import TERMINAL_STATES, TOKEN_LOGPS
from alignkit.callbacks.certificate import evaluation_against
from alignkit.data.collate import micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.models.backbone import Backbone
from alignkit.models.reference import CachedReference, backbone_logps
from alignkit.models.terminal_states import CachedStates
from alignkit.modules.alignment import AlignmentModule

AGAINST_REFERENCE = ("dpo", "cdpo", "ipo", "ipo_avg")


@pytest.fixture
def cached(asked) -> Callable[..., AlignmentModule]:
    """The module with the reference's log-probs looked up; they are computed under the precision that the certificate runs in."""

    def change(module: AlignmentModule, examples: Sequence[EncodedExample], *, precision: str = "32-true", model=None) -> AlignmentModule:
        reference = CachedReference(model or module.backbone)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed"):
            reference.load(asked(TOKEN_LOGPS, model or module.backbone, examples, layout="rows"))
        module.reference = reference
        return module

    return change


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("objective_name", [*AGAINST_REFERENCE, "joint_con_dph"])
def test_cached_log_probs_pass_up_to_the_rounding_of_their_precision(
    objective_name, precision, lm_factory, examples_factory, module_factory, certify, cached
):
    examples = examples_factory(12)
    lm = lm_factory("llama", dtype=torch.bfloat16 if precision == "bf16-true" else torch.float32)
    module = module_factory(objective_name, lm, steps=1)
    del module.reference
    results = certify(cached(module, examples, precision=precision), examples, precision=precision)
    assert module.steps_done == 1
    assert results["certificate/reference_error"] < (1e-5 if precision == "32-true" else 0.1)
    expected = next(value for name, value in results.items() if "expected_first_loss" in name)
    if objective_name in ("dpo", "cdpo"):
        assert results["certificate/first_loss"] == pytest.approx(expected, abs=1e-5 if precision == "32-true" else 0.02)


@pytest.mark.parametrize("objective_name", [*AGAINST_REFERENCE, "joint_con_dph"])
def test_cached_log_probs_of_another_model_are_refused(
    objective_name, lm_factory, other_lm, examples_factory, module_factory, refused, cached
):
    examples = examples_factory(6)
    module = module_factory(objective_name, lm_factory("llama"), steps=1)
    del module.reference
    message = refused(cached(module, examples, model=Backbone(other_lm)), examples)
    assert "has cached log-probs of the reference that differ by" in message
    assert "Delete the folder" in message


def test_in_bf16_cached_log_probs_of_a_trained_model_are_refused(lm_factory, examples_factory, module_factory, refused, cached, fit):
    examples = examples_factory(8)
    trained = module_factory("dpo", lm_factory("llama"), steps=4)
    fit(trained, examples)
    module = module_factory("dpo", lm_factory("llama"), steps=1)
    del module.reference
    message = refused(cached(module, examples, model=trained.backbone, precision="bf16-mixed"), examples, precision="bf16-mixed")
    assert "has cached log-probs of the reference" in message


@pytest.mark.parametrize("number", [3.0, float("nan"), float("inf")])
def test_one_stale_value_in_the_first_batch_is_refused_and_named(
    number, lm_factory, examples_factory, module_factory, refused, cached, asked
):
    examples = examples_factory(4)
    module = module_factory("dpo", lm_factory("llama"), steps=1)
    del module.reference
    values = {key: rows.clone() for key, rows in asked(TOKEN_LOGPS, module.backbone, examples).items()}
    values[2][0] += number
    cached(module, examples).reference.load(values)
    assert "certificate: example 2 has cached log-probs" in refused(module, examples)


def test_cached_log_probs_of_another_reference_pass_where_it_is_meant(
    lm_factory, other_lm, examples_factory, module_factory, certify, cached
):
    examples = examples_factory(6)
    module = module_factory("dpo", lm_factory("llama"), steps=1)
    del module.reference
    results = certify(cached(module, examples, model=Backbone(other_lm)), examples, reference_is_policy=False)
    assert abs(results["certificate/first_loss"] - math.log(2)) > 1e-5
    assert "certificate/reference_error" not in results


def test_the_policy_against_itself_draws_nothing_that_training_draws(lm_factory, examples_factory, module_factory):
    examples = examples_factory(4)
    module = module_factory("joint_con_dph", lm_factory("llama"), dropout=0.5).train()
    del module.reference
    module.reference = CachedReference(module.backbone)
    (batch,) = micro_batches(examples, Packing(layout="packed", tokens=1000, row_tokens=100))
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with torch.no_grad():
        evaluation = evaluation_against(backbone_logps(module.backbone, batch), module, batch)
    assert torch.equal(torch.rand(3), expected)
    assert evaluation.metrics["loss/dpo"].tolist() == pytest.approx([math.log(2)] * 4, abs=1e-6)
    assert isinstance(module.reference, CachedReference)


@pytest.mark.parametrize("objective_name", ["con_dph", "bradley_terry"])
def test_cached_states_pass_and_stale_ones_are_refused(
    objective_name, lm_factory, examples_factory, module_factory, certify, refused, asked
):
    examples = examples_factory(6)

    def build(model: Backbone | None = None) -> AlignmentModule:
        module = module_factory(objective_name, lm_factory("llama"), steps=1, frozen_trunk=True)
        module.states = CachedStates()
        module.states.load(asked(TERMINAL_STATES, model or module.backbone, examples))
        return module

    assert certify(build(), examples)["certificate/states_error"] < 1e-5
    wrong = lm_factory("llama")
    with torch.no_grad():
        wrong.model.layers[0].mlp.down_proj.weight.mul_(1.01)
    assert "has cached hidden states that differ by" in refused(build(Backbone(wrong)), examples)


def test_on_cached_states_the_trunk_says_no_more_than_a_sample(lm_factory, examples_factory, module_factory, certify, asked, monkeypatch):
    # a head's whole training is cheaper than one pass over a batch
    examples = examples_factory(12)
    module = module_factory("con_dph", lm_factory("llama"), steps=2, frozen_trunk=True)
    module.states = CachedStates()
    module.states.load(asked(TERMINAL_STATES, module.backbone, examples))
    seen, original = [], Backbone.hidden_states

    def spy(self: Backbone, batch: PackedBatch) -> torch.Tensor:
        seen.append(batch.examples)
        return original(self, batch)

    monkeypatch.setattr(Backbone, "hidden_states", spy)
    certify(module, examples, pairs=6)
    assert max(seen) <= 2
