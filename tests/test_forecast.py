"""What a forecast counts, against tensors that are really there and against closed forms. No test asserts a time."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from alignkit.assembly import Inputs, plan_packing, read_inputs
from alignkit.command_line import precheck
from alignkit.forecast import GAPS, Seconds, forecast, needs_checkpointing, peak_memory
from alignkit.models.backbone import Backbone
from alignkit.planning.ledger import ACTIVATIONS, COPIES, GRADIENTS, OPTIMIZER, REFERENCE, TEMPORARIES, WEIGHTS, Ledger
from alignkit.planning.load import read_load, run_steps
from alignkit.random_module import build_module, precision_plugin
from alignkit.rehearsal import Rehearsal
from alignkit.settings import RunSettings

SMALL = ("dataset.pairs=120", "dataset.validation_examples=24", "steps=4", "schedule.warmup_steps=0", "hardware=cpu")


def settings_of(*overrides: str) -> RunSettings:
    (settings,) = precheck([*SMALL, *overrides])
    return settings


@pytest.fixture(scope="session")
def inputs() -> Inputs:
    return read_inputs(settings_of())


def with_options(inputs: Inputs, settings: RunSettings) -> Inputs:
    """Inputs of other settings of the same data and model."""
    fresh = read_inputs(replace(settings, dataset=replace(settings.dataset)))
    return replace(fresh, prepared=inputs.prepared) if fresh.objective.form().completions == 2 else fresh


def total(parts) -> int:
    return sum(parts.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16_true"])
@pytest.mark.parametrize("loss", ["con_dph", "dpo", "sft", "reward"])
def test_a_rehearsal_keeps_what_a_real_step_keeps(precision, loss):
    settings = settings_of(f"loss={loss}", f"precision={precision}", "dataset.pairs=40", "reference=memory")
    inputs = read_inputs(settings)
    rehearsed = Rehearsal(settings, inputs, plan_packing, checkpointing=False)
    batches = read_load(run_steps(settings, inputs, rehearsed.packing)).heaviest
    module = build_module(settings, inputs, inputs.config, checkpointing=False, mode=nullcontext())
    real = Ledger()
    for tensor in (*module.parameters(), *module.buffers()):
        real.enter(tensor, WEIGHTS)
    with real, precision_plugin(settings, "cpu").forward_context():
        real.kind = ACTIVATIONS
        losses = module.evaluate(batches[0]).sum()
        kept = real.alive[ACTIVATIONS]
    assert losses.requires_grad
    with rehearsed._ledger as ledger, rehearsed._plugin.forward_context():
        ledger.kind = ACTIVATIONS
        losses = rehearsed._module.evaluate(batches[0]).sum()
        assert ledger.alive[ACTIVATIONS] == pytest.approx(kept, rel=0.001)


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt", "gpt_neox"])
def test_activations_are_those_that_autograd_saves(name, lm_factory, inputs):
    settings = settings_of("loss=dpo", "model.attention=dense")
    small = replace(inputs, config=lm_factory(name).config)
    vocabulary = small.config.vocab_size
    rehearsal = Rehearsal(settings, small, plan_packing, checkpointing=False)
    batch = read_load(run_steps(settings, inputs, replace(rehearsal.packing, tokens=200))).heaviest[0]
    for ids in (batch.input_ids, batch.target_ids):
        ids.remainder_(vocabulary)
    backbone = Backbone(lm_factory(name))
    weights = {parameter.untyped_storage().data_ptr() for parameter in backbone.parameters()}
    saved: dict[int, int] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        scores = backbone.token_scores(backbone.hidden_states(batch), batch).logps
    with rehearsal._ledger as ledger:
        ledger.kind = ACTIVATIONS
        before = ledger.alive[ACTIVATIONS]
        logps = rehearsal._module.backbone.token_scores(rehearsal._module.backbone.hidden_states(batch), batch).logps
        # Beside what autograd saves, the result itself is alive.
        assert ledger.alive[ACTIVATIONS] - before == pytest.approx(sum(saved.values()) + logps.nbytes, rel=0.01)
    assert scores.shape == logps.shape


def test_parameters_and_optimizer_state_have_their_closed_form(inputs):
    lm = build_module(settings_of("loss=dpo"), inputs, inputs.config, checkpointing=False, mode=nullcontext()).backbone
    parameters = sum(parameter.numel() for parameter in lm.parameters())
    for overrides, moments in {
        ("optimizer.weight_decay=0",): 2,
        ("optimizer.weight_decay=0.01",): 3,
        ("optimizer.weight_decay=0.01", "optimizer.decay_towards=zero"): 2,
        ("optimizer=rmsprop", "optimizer.weight_decay=0"): 1,
    }.items():
        settings = settings_of("loss=dpo", *overrides)
        dpo = with_options(inputs, settings)
        rehearsal = Rehearsal(settings, dpo, plan_packing, checkpointing=False)
        parts = rehearsal.step_peak(read_load(run_steps(settings, dpo, rehearsal.packing)).heaviest[0], first=True)
        assert parts[WEIGHTS] == pytest.approx(4 * parameters, rel=0.001)  # and the buffers of the rotation
        assert parts[OPTIMIZER] == pytest.approx(4 * moments * parameters, rel=0.001)


def test_gradients_and_casts_are_alive_from_the_second_micro_batch_on(inputs):
    settings = settings_of("loss=dpo", "precision=bf16", "batch.tokens=512")
    dpo = with_options(inputs, settings)
    rehearsal = Rehearsal(settings, dpo, plan_packing, checkpointing=False)
    batches = read_load(run_steps(settings, dpo, rehearsal.packing)).heaviest
    parts = rehearsal.step_peak(batches[0], first=False)
    assert parts[GRADIENTS] == pytest.approx(parts[WEIGHTS], rel=0.001)
    assert 0.9 * parts[WEIGHTS] / 2 < parts[COPIES] <= parts[WEIGHTS] / 2


def test_nothing_stays_alive_after_a_step_but_weights_and_optimizer_state(inputs):
    settings = settings_of("loss=dpo")
    dpo = with_options(inputs, settings)
    rehearsal = Rehearsal(settings, dpo, plan_packing, checkpointing=False)
    batches = read_load(run_steps(settings, dpo, rehearsal.packing)).heaviest
    first, second = (rehearsal.step_peak(batches[0], first=True) for _ in range(2))
    assert total(first) == total(second)
    alive = {kind for kind, count in rehearsal._ledger.alive.items() if count > 100_000}
    assert alive == {WEIGHTS, OPTIMIZER}


def test_memory_grows_with_the_tokens_of_a_micro_batch(inputs):
    peaks = [
        total(peak_memory(settings_of(f"batch.tokens={tokens}"), inputs, plan_packing, checkpointing=False)) for tokens in (256, 512, 4096)
    ]
    assert all(low < high for low, high in pairwise(peaks))


def test_checkpointing_keeps_a_fraction_of_the_activations(inputs):
    settings = settings_of("reference=memory")
    off, full = (peak_memory(settings, inputs, plan_packing, checkpointing=flag) for flag in (False, True))
    assert full[ACTIVATIONS] < off[ACTIVATIONS] / 2
    assert total(full) < total(off)


def test_a_reference_in_memory_weighs_as_much_as_the_policy(inputs):
    parts = peak_memory(settings_of("reference=memory"), inputs, plan_packing, checkpointing=False)
    assert parts[REFERENCE] == pytest.approx(parts[WEIGHTS], rel=0.01)


def test_a_frozen_trunk_keeps_no_activations(inputs):
    settings = settings_of("loss=sep_dph", "loss.dpo_weight=0", "model.train=heads")
    parts = peak_memory(settings, read_inputs(settings), plan_packing, checkpointing=False)
    assert parts.keys() == {WEIGHTS, TEMPORARIES, GAPS}


def test_checkpointing_is_needed_where_the_run_would_not_fit_otherwise(inputs):
    settings = settings_of()
    without = total(peak_memory(settings, inputs, plan_packing, checkpointing=False))
    assert not needs_checkpointing(settings, inputs, plan_packing, without)
    assert needs_checkpointing(settings, inputs, plan_packing, without - 1)


def test_the_largest_tokens_that_fit_are_where_the_peak_meets_the_memory(inputs):
    settings = settings_of("batch.tokens=512", "reference=memory")
    result = forecast(settings, inputs, plan_packing)
    assert result.largest_tokens_that_fit(result.peak_bytes) == result.largest
    assert result.largest_tokens_that_fit(result.peak_bytes // 2) == 0  # the process alone needs more
    room = result.peak_bytes + 2**25
    wider = forecast(settings_of(f"batch.tokens={result.largest_tokens_that_fit(room)}", "reference=memory"), inputs, plan_packing)
    grown = total({k: v for k, v in wider.parts.items() if "process" not in k}) - total(
        {k: v for k, v in result.parts.items() if "process" not in k}
    )
    assert grown <= 1.05 * 2**25
    assert isinstance(result.seconds, Seconds)
    assert result.run_seconds >= result.steps * result.seconds_per_step > 0
    assert result.filled <= result.positions
    assert result.micro_batches >= 1
