"""Operations that a rehearsal counts, against closed forms."""

from __future__ import annotations

import pytest

from alignkit.assembly import plan_packing, read_inputs
from alignkit.command_line import precheck
from alignkit.planning.counting import attention_operations, count_work, estimate_pace, visible_pairs
from alignkit.planning.devices import DEVICES
from alignkit.planning.load import read_load, run_steps
from alignkit.rehearsal import Rehearsal, Share

SMALL = ("dataset.pairs=48", "dataset.validation_examples=8", "batch.pairs=8", "steps=2", "schedule.warmup_steps=0", "hardware=cpu")


def rehearsed(*overrides):
    """Settings, inputs, the first steps and the rehearsal of a run."""
    (settings,) = precheck([*SMALL, *overrides])
    inputs = read_inputs(settings)
    rehearsal = Rehearsal(settings, inputs, plan_packing, checkpointing=settings.model.checkpointing == "full")
    return settings, inputs, read_load(run_steps(settings, inputs, rehearsal.packing)), rehearsal


def products_of(rehearsal):
    """Elements of the matrices of a layer."""
    return sum(parameter.numel() for parameter in rehearsal.backbone.layers()[0].parameters() if parameter.ndim == 2)


@pytest.mark.parametrize(
    ("overrides", "passes"),
    [
        (("loss=sft",), 6),  # 2 operations an element forward, 4 backward
        (("loss=dpo", "reference=memory"), 8),  # 2 more for the reference
    ],
)
def test_a_layer_costs_six_operations_an_element_and_position(overrides, passes):
    settings, inputs, load, rehearsal = rehearsed(*overrides)
    work = count_work(settings, inputs, load, plan_packing, rehearsal)
    assert work.operations.layer == pytest.approx(passes * products_of(rehearsal), rel=1e-6)


def test_checkpointing_computes_a_forward_pass_again_up_to_the_last_product():
    settings, inputs, load, rehearsal = rehearsed("loss=sft", "model.checkpointing=full")
    work = count_work(settings, inputs, load, plan_packing, rehearsal)
    last = rehearsal.backbone.layers()[0].mlp.down_proj.weight.numel()  # nothing needs what it puts out
    assert work.operations.layer == pytest.approx(8 * products_of(rehearsal) - 2 * last, rel=1e-6)


def test_the_vocabulary_costs_eight_operations_an_element_and_completion_token():
    settings, inputs, load, rehearsal = rehearsed("loss=sft")
    work = count_work(settings, inputs, load, plan_packing, rehearsal)
    vocabulary = rehearsal.backbone.lm.get_output_embeddings().weight.numel()
    # 2 forward, and 2 + 4 backward: logits are not kept, but computed again.
    assert work.operations.around == pytest.approx(8 * vocabulary, rel=1e-6)


def test_a_token_sees_its_prompt_and_its_own_completion():
    # 1 + 2 in the prompt, 3 + 4 in the first completion, 3 in the second.
    assert visible_pairs(2, [2, 1]) == 13


def test_attention_costs_four_operations_a_pair_and_feature_and_pass():
    _, inputs, load, rehearsal = rehearsed("loss=sft")
    batch = load.sample
    by_key = {example.key: example for example in inputs.prepared.train}
    pairs = sum(visible_pairs(len(by_key[key].prompt_ids), list(map(len, by_key[key].completion_ids))) for key in batch.example_keys)
    config = inputs.config
    width = config.num_attention_heads * config.head_dim
    assert attention_operations(batch, by_key, rehearsal) == 4 * width * pairs * config.num_hidden_layers * 3


def test_seconds_halve_with_twice_the_utilisation_where_operations_bound_them():
    settings, inputs, load, rehearsal = rehearsed("loss=sft", "precision=bf16")
    slow, fast = (estimate_pace(DEVICES["a100"], share, settings, inputs, load, plan_packing, rehearsal) for share in (1e-4, 2e-4))
    assert slow.step == pytest.approx(2 * fast.step)
    assert slow.update == fast.update > 0
    # At full speed a toy waits for its kernels.
    best = estimate_pace(DEVICES["h100"], 1.0, settings, inputs, load, plan_packing, rehearsal)
    assert best.step == estimate_pace(DEVICES["a100"], 1.0, settings, inputs, load, plan_packing, rehearsal).step


def test_more_shards_hold_less_and_the_peak_falls_with_them():
    settings, inputs, load, _ = rehearsed("loss=dpo")
    peaks = []
    for shards in (1, 2, 8):
        rehearsal = Rehearsal(settings, inputs, plan_packing, checkpointing=False, share=Share(shards=shards))
        held = rehearsal.held()
        peaks.append(sum(rehearsal.step_peak(load.heaviest[0], first=True).values()))
        assert held["gradients"] == pytest.approx(held["weights"], rel=0.01)
        assert held["optimizer state"] == pytest.approx(3 * held["weights"], rel=0.01)
    assert peaks[0] > peaks[1] > peaks[2]
