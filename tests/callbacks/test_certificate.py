"""The certificate lets good runs pass and stops each kind of wrong one before its first update, naming the example."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from lightning import Callback

from alignkit.batches import PackedBatch
from alignkit.callbacks.certificate import check_targets
from alignkit.data.collate import collate
from alignkit.data.examples import EncodedExample
from alignkit.errors import UserError
from alignkit.models import backbone as backbone_file
from alignkit.models.backbone import Backbone
from alignkit.modules.alignment import AlignmentModule
from alignkit.modules.forward import Forward
from alignkit.modules.objective import Evaluation, Objective
from alignkit.modules.term import TermOutput

TERMINATOR = 2
AGAINST_REFERENCE = ("dpo", "cdpo", "ipo", "ipo_avg")


@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_every_architecture_passes_in_both_layouts(layout, architecture, lm_factory, examples_factory, module_factory, certify):
    module = module_factory("dpo", lm_factory(architecture), steps=1)
    results = certify(module, examples_factory(6), layout=layout, tokens=60)
    assert module.steps_done == 1
    assert results["certificate/first_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert results["certificate/expected_first_loss"] == pytest.approx(math.log(2), abs=1e-9)
    assert 0 <= results["certificate/layout_error"] < 1e-4


def test_every_objective_passes(objective, lm_factory, examples_factory, module_factory, certify):
    module = module_factory(objective, lm_factory("llama"), steps=1)
    results = certify(module, examples_factory(6, completions=module.objective.form().completions))
    assert math.isfinite(results["certificate/first_loss"])
    assert ("certificate/expected_first_loss" in results) == (objective in AGAINST_REFERENCE)
    assert results["certificate/terminated_completions"] == 4 * module.objective.form().completions


def test_a_sliding_window_passes_in_rows(lm_factory, examples_factory, module_factory, certify):
    module = module_factory("dpo", lm_factory("mistral"), steps=1)
    assert certify(module, examples_factory(6, shortest=6), layout="rows")["certificate/layout_error"] < 1e-4


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_rounding_to_bf16_is_no_reason_to_refuse(precision, lm_factory, examples_factory, module_factory, certify):
    module = module_factory("dpo", lm_factory("llama"), steps=1)
    results = certify(module, examples_factory(6), precision=precision)
    assert results["certificate/first_loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_completions_that_were_cut_pass_and_are_not_counted_as_terminated(lm_factory, examples_factory, module_factory, certify):
    first, *others = examples_factory(4)
    cut = dataclasses.replace(first, completion_ids=((5, 6, 7), first.completion_ids[1]))
    module = module_factory("dpo", lm_factory("llama"), steps=1)
    assert certify(module, [cut, *others])["certificate/terminated_completions"] == 7


class TrainMode(Callback):
    """Switches the language model's dropout on, behind the backbone's back."""

    def on_train_start(self, trainer, pl_module):
        pl_module.backbone.lm.train()


@pytest.mark.parametrize("name", ["gpt2", "opt"])
def test_dropout_in_the_trunk_is_refused(name, objective, lm_factory, examples_factory, module_factory, refused):
    # GPT-2's own config asks for 0.1
    module = module_factory(objective, lm_factory(name), steps=1)
    message = refused(module, examples_factory(6, completions=module.objective.form().completions), before=[TrainMode()])
    assert "random (dropout?)" in message


@pytest.mark.parametrize("objective_name", AGAINST_REFERENCE)
def test_another_reference_is_refused_where_it_is_claimed_to_be_the_policy(
    objective_name, lm_factory, other_lm, examples_factory, module_factory, refused
):
    module = module_factory(objective_name, lm_factory("llama"), reference=other_lm, steps=1)
    examples = examples_factory(6)
    message = refused(module, examples)
    assert "with policy = reference the loss must be" in message
    assert any(f"example {example.key} has" in message for example in examples)


@pytest.mark.parametrize("objective_name", ["joint_con_dph", "joint_sep_dph"])
def test_another_reference_is_refused_in_the_joint_term_too(
    objective_name, lm_factory, other_lm, examples_factory, module_factory, refused
):
    module = module_factory(objective_name, lm_factory("llama"), reference=other_lm, steps=1)
    assert "policy = reference" in refused(module, examples_factory(6))


def test_another_reference_passes_where_it_is_meant(lm_factory, other_lm, examples_factory, module_factory, certify):
    module = module_factory("dpo", lm_factory("llama"), reference=other_lm, steps=1)
    results = certify(module, examples_factory(6), reference_is_policy=False)
    assert abs(results["certificate/first_loss"] - math.log(2)) > 1e-5
    assert "certificate/expected_first_loss" not in results


@pytest.mark.parametrize("side", [0, 1])
def test_a_terminator_in_the_middle_of_a_completion_is_refused(side, lm_factory, examples_factory, module_factory, refused):
    examples = examples_factory(4)
    sides = list(examples[2].completion_ids)
    sides[side] = (5, TERMINATOR, 6, TERMINATOR)
    examples[2] = dataclasses.replace(examples[2], completion_ids=tuple(sides), key=77)
    message = refused(module_factory("dpo", lm_factory("llama"), steps=1), examples)
    assert message == "certificate: a completion of example 77 has its terminator before its end."


def test_a_terminator_in_the_prompt_passes(lm_factory, examples_factory, module_factory, certify):
    examples = [dataclasses.replace(example, prompt_ids=(5, TERMINATOR, 6)) for example in examples_factory(4)]
    certify(module_factory("dpo", lm_factory("llama"), steps=1), examples)


def plain_causal(batch: PackedBatch, dtype: torch.dtype) -> torch.Tensor:
    tokens = batch.input_ids.shape[1]
    hidden = torch.full((tokens, tokens), torch.finfo(dtype).min, dtype=dtype).triu(1)
    return hidden.expand(len(batch.input_ids), 1, tokens, tokens)


def test_a_completion_that_sees_its_sibling_is_refused(architecture, lm_factory, examples_factory, module_factory, refused, monkeypatch):
    # Policy and reference leak alike, so that the first loss is ln 2 all the same.
    monkeypatch.setattr(backbone_file, "additive_mask", plain_causal)
    message = refused(module_factory("dpo", lm_factory(architecture), steps=1), examples_factory(6))
    assert "nats a token from the model's own (layout packed" in message
    assert "Try batch.layout=rows." in message


def test_an_example_that_sees_its_neighbour_is_refused(lm_factory, examples_factory, module_factory, refused, monkeypatch):
    original = backbone_file.additive_mask

    def leak(batch: PackedBatch, dtype: torch.dtype) -> torch.Tensor:
        return original(dataclasses.replace(batch, example_ids=batch.example_ids.clamp(max=0)), dtype)

    monkeypatch.setattr(backbone_file, "additive_mask", leak)
    examples = examples_factory(6, completions=1)
    assert "layout packed" in refused(module_factory("sft", lm_factory("llama"), steps=1), examples)


def test_positions_that_run_on_through_a_row_are_refused(architecture, lm_factory, examples_factory, module_factory, refused, monkeypatch):
    original = Backbone.hidden_states

    def shifted(self: Backbone, batch: PackedBatch) -> torch.Tensor:
        places = torch.arange(batch.input_ids.shape[1]).expand_as(batch.position_ids)
        return original(self, dataclasses.replace(batch, position_ids=places))

    monkeypatch.setattr(Backbone, "hidden_states", shifted)
    examples = examples_factory(6, shortest=5)
    assert "layout packed" in refused(module_factory("dpo", lm_factory(architecture), steps=1), examples)


@pytest.mark.parametrize("layout", ["packed", "rows"])
def test_a_model_that_does_something_beyond_its_output_embedding_is_refused(layout, lm_factory, examples_factory, module_factory, refused):
    module = module_factory("dpo", lm_factory("llama"), steps=1)
    module.backbone.lm.lm_head.register_forward_hook(lambda head, args, logits: logits / 2)  # as Cohere's logit_scale does
    message = refused(module, examples_factory(6), layout=layout)
    assert ("Try batch.layout=rows." if layout == "packed" else "It cannot be trained here.") in message


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("objective_name", ["dpo", "joint_con_dph", "bradley_terry"])
def test_a_loss_that_is_not_finite_is_refused_and_the_example_named(
    value, objective_name, lm_factory, examples_factory, module_factory, refused
):
    module = module_factory(objective_name, lm_factory("llama"), steps=1)
    examples = [dataclasses.replace(example, key=50 + example.key) for example in examples_factory(4)]
    spoil(module, key=52, value=value)
    message = refused(module, examples)
    assert message.startswith(f"certificate: the loss before the first update is {value}")
    assert message.endswith("from example 52.")


def test_a_loss_per_token_that_is_not_finite_names_its_example_too(lm_factory, examples_factory, module_factory, refused):
    module = module_factory("sft", lm_factory("llama"), steps=1)
    spoil(module, key=2, value=math.nan)
    assert refused(module, examples_factory(4, completions=1, shortest=2)).endswith("from example 2.")


def spoil(module: AlignmentModule, *, key: int, value: float) -> None:
    """Replace the losses of one example."""

    class Spoilt(Objective):
        def __call__(self, forward: Forward) -> Evaluation:
            evaluation, batch = super().__call__(forward), forward.batch
            outputs = {}
            for name, output in evaluation.outputs.items():
                tokens = len(output.losses) == batch.completion_tokens
                owner = batch.example_index[batch.completion_index] if tokens else torch.arange(batch.examples)
                bad = owner == batch.example_keys.index(key)
                outputs[name] = TermOutput(losses=torch.where(bad, torch.tensor(value), output.losses))
            return dataclasses.replace(evaluation, outputs=outputs)

    module.objective = Spoilt(module.objective.terms)


def without_target(batch: PackedBatch, place: int) -> PackedBatch:
    """The batch with one completion token that is not trained."""
    kept = torch.arange(batch.completion_tokens) != place
    names = ("predictor_index", "target_ids", "completion_index")
    return dataclasses.replace(batch, **{name: getattr(batch, name)[kept] for name in names})


@pytest.fixture
def batch() -> PackedBatch:
    pairs = [EncodedExample(key=key, prompt_ids=(3, 4), completion_ids=((5 + key, 6, 2), (7, 2))) for key in (10, 11)]
    return collate([pairs], "packed")


def test_targets_of_a_good_batch_pass(batch):
    assert check_targets(batch, TERMINATOR) == 4


def test_a_completion_token_that_is_not_trained_is_refused(batch):
    with pytest.raises(UserError, match="trains 4 tokens, not just the 5 of its completions"):
        check_targets(without_target(batch, 6), TERMINATOR)


def test_a_completion_token_that_is_not_trained_is_blamed_on_its_example(batch):
    with pytest.raises(UserError, match="example 11"):
        check_targets(without_target(batch, 6), TERMINATOR)


def test_a_trained_prompt_token_is_refused(batch):
    targets = batch.target_ids.clone()
    targets[0] = 4
    with pytest.raises(UserError, match="example 10"):
        check_targets(dataclasses.replace(batch, target_ids=targets), TERMINATOR)


def test_a_head_that_reads_another_token_is_refused(batch):
    terminals = batch.terminal_index.clone()
    terminals[2] -= 1
    with pytest.raises(UserError, match="example 11 is read by heads at another token"):
        check_targets(dataclasses.replace(batch, terminal_index=terminals), TERMINATOR)
