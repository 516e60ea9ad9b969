"""Weights under autocast are converted once, which changes nothing that is computed, and conversions never outlive their use."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from alignkit.data.collate import micro_batches
from alignkit.data.packing import Packing
from alignkit.models.backbone import Backbone
from alignkit.models.conversions import conversions_kept, convert_for_good, weights_converted_once
from alignkit.models.reference import LiveReference, backbone_logps, frozen_copy


@pytest.fixture
def lm(lm_factory):
    return lm_factory("llama")


def run(lm) -> torch.Tensor:
    with torch.no_grad():
        return lm(torch.arange(3, 11)[None]).logits


def scale(lm, factor: float) -> None:
    with torch.no_grad():
        for weight in lm.parameters():
            weight.mul_(factor)


@pytest.mark.parametrize("trained", [True, False])
def test_inside_a_weight_is_converted_once_and_outside_it_is_as_it_is_now(trained, lm):
    lm.requires_grad_(trained)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        before = run(lm)
        with weights_converted_once(lm):
            assert torch.equal(run(lm), before)
            lm.model.layers[0].mlp.up_proj.weight.data.mul_(3)
            assert torch.equal(run(lm), before)  # still what it was converted to
        after = run(lm)
        assert not torch.equal(after, before)
        with weights_converted_once(lm):
            assert torch.equal(run(lm), after)
    assert {weight.requires_grad for weight in lm.parameters()} == {trained}


def test_without_autocast_nothing_is_kept(lm):
    with weights_converted_once(lm):
        before = run(lm)
        scale(lm, 2.0)
        assert not torch.equal(run(lm), before)


def test_what_was_frozen_is_frozen_again_after_an_error(lm):
    lm.requires_grad_(False)
    with pytest.raises(KeyError), torch.autocast("cpu", torch.bfloat16), weights_converted_once(lm):
        raise KeyError
    assert not any(weight.requires_grad for weight in lm.parameters())


def gradients(backbone, batches, *, kept: bool) -> dict[str, torch.Tensor]:
    """Summed over batches under bf16, with or without kept conversions."""
    backbone.lm.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), conversions_kept("cpu") if kept else nullcontext():
        for batch in batches:
            backbone.token_scores(backbone.hidden_states(batch), batch).logps.sum().backward()
    return {name: weight.grad.clone() for name, weight in backbone.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_kept_conversions_pass_every_micro_batch_s_gradient_on(checkpointing, lm, examples_factory):
    backbone = Backbone(lm).use_attention("tiles", "cpu")
    if checkpointing:
        backbone.checkpoint_activations()
    batches = micro_batches(examples_factory(6), Packing(layout="packed", tokens=48))
    assert len(batches) > 1
    plain, kept = (gradients(backbone, batches, kept=choice) for choice in (False, True))
    assert plain.keys() == kept.keys() == dict(backbone.named_parameters()).keys()
    for name, gradient in plain.items():
        assert torch.equal(gradient, kept[name]), name


def test_a_gradient_does_not_wait_for_those_of_earlier_layers(lm, examples_factory):
    """At the end of each layer's backward pass its weights have theirs, also from a conversion that an earlier micro-batch made."""
    backbone = Backbone(lm).use_attention("tiles", "cpu")
    batches = micro_batches(examples_factory(6), Packing(layout="packed", tokens=48))
    first, last = (layer.mlp.up_proj.weight for layer in (backbone.layers()[0], backbone.layers()[-1]))
    order: list[str] = []
    first.register_post_accumulate_grad_hook(lambda weight: order.append("first"))
    last.register_post_accumulate_grad_hook(lambda weight: order.append("last"))
    last.register_hook(lambda gradient: order.append("last is there"))
    backbone.layers()[0].register_full_backward_hook(lambda *_: order.append("first layer"))
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), conversions_kept("cpu"):
        for batch in batches:
            backbone.token_scores(backbone.hidden_states(batch), batch).logps.sum().backward()
    assert order == ["last is there", "last", "first", "first layer"] * len(batches)


def test_states_are_converted_once_for_all_that_read_them_and_anew_when_they_change(lm):
    layer = lm.model.layers[0].mlp
    states = torch.randn(3, layer.gate_proj.in_features, requires_grad=True) * 1.0
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), conversions_kept("cpu"):
        gate, up = layer.gate_proj(states), layer.up_proj(states)
        kept = {tensor.data_ptr() for product in (gate, up) for tensor in saved_by(product) if tensor.shape == states.shape}
        assert len(kept) == 1
        states.add_(1)
        assert torch.equal(layer.gate_proj(states), layer.gate_proj(states.clone()))
        assert not torch.equal(layer.gate_proj(states), gate)


def saved_by(product: torch.Tensor) -> list[torch.Tensor]:
    """What a product keeps for its backward pass."""
    node = product.grad_fn
    return [value for name in dir(node) if name.startswith("_saved_") and isinstance(value := getattr(node, name), torch.Tensor)]


@pytest.mark.parametrize("tied", [False, True])
def test_gradients_of_the_vocabulary_may_be_added_to_what_is_there(tied, lm_factory, examples_factory):
    lm = lm_factory("llama")
    if tied:
        lm.get_output_embeddings().weight = lm.get_input_embeddings().weight
    backbone = Backbone(lm)
    batches = micro_batches(examples_factory(6), Packing(layout="packed", tokens=48))
    plain = gradients(backbone, batches, kept=True)
    with backbone.adding_gradients():
        added = gradients(backbone, batches, kept=True)
    assert plain.keys() == added.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(added[name], gradient, rtol=1e-6, atol=1e-6)
    assert backbone.adds_gradients is False


def test_the_vocabulary_part_reads_kept_conversions_and_says_the_same_to_the_bit(lm_factory, examples_factory):
    backbone = Backbone(lm_factory("llama"))
    (batch,) = micro_batches(examples_factory(3), Packing(layout="packed", tokens=1000))

    def scored() -> tuple[torch.Tensor, torch.Tensor]:
        backbone.zero_grad()
        logps = backbone.token_scores(backbone.hidden_states(batch), batch).logps
        logps.sum().backward()
        return logps.detach(), backbone.lm.get_output_embeddings().weight.grad.clone()

    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False), conversions_kept("cpu") as convert:
        usual = scored()
        with backbone.converting(convert):
            kept = scored()
            backbone.lm.get_output_embeddings().weight.data.mul_(3)
            still = scored()
    assert all(torch.equal(one, other) for one, other in zip(usual, kept, strict=True))
    assert torch.equal(still[0], kept[0])  # what was kept is what is read
    assert backbone.conversion is None


def test_kept_conversions_are_let_go(lm):
    weight = lm.model.layers[0].mlp.up_proj
    state = torch.ones(1, weight.in_features)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        with conversions_kept("cpu"):
            before = weight(state)
            weight.weight.data.mul_(2)
            assert torch.equal(weight(state), before)
        assert torch.equal(weight(state), 2 * before)


def test_a_frozen_model_that_is_converted_says_the_same_to_the_bit_in_less_memory(architecture, lm_factory, examples_factory):
    backbone = frozen_copy(Backbone(lm_factory(architecture)))
    layout = backbone.layout("packed")
    (batch,) = micro_batches(examples_factory(4), Packing(layout=layout, tokens=4096))
    held = sum(weight.nbytes for weight in backbone.parameters())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        before = backbone_logps(backbone, batch)
        convert_for_good(backbone, torch.bfloat16)
        assert torch.equal(backbone_logps(backbone, batch), before)
    assert sum(weight.nbytes for weight in backbone.parameters()) < held
    embedding = backbone.lm.get_input_embeddings().weight
    assert embedding.dtype == torch.float32


@pytest.mark.parametrize("narrow", [True, False])
def test_tied_embeddings_are_converted_where_nothing_is_lost(narrow, lm, examples_factory):
    lm.get_output_embeddings().weight = lm.get_input_embeddings().weight
    if narrow:  # as from a bf16 file
        lm.get_input_embeddings().weight.data = lm.get_input_embeddings().weight.data.bfloat16().float()
    backbone = frozen_copy(Backbone(lm).use_attention("tiles", "cpu"))
    (batch,) = micro_batches(examples_factory(4), Packing(layout="packed", tokens=4096))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        before = backbone_logps(backbone, batch)
        convert_for_good(backbone, torch.bfloat16)
        assert torch.equal(backbone_logps(backbone, batch), before)
    held = backbone.lm.get_input_embeddings().weight
    assert held is backbone.lm.get_output_embeddings().weight
    assert held.dtype == (torch.bfloat16 if narrow else torch.float32)


def test_a_model_that_is_trained_is_not_converted(lm):
    with pytest.raises(AssertionError, match="trained"):
        convert_for_good(Backbone(lm.requires_grad_(True)), torch.bfloat16)


@pytest.mark.parametrize(("precision", "held"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16), ("16-mixed", torch.float16)])
def test_a_reference_is_held_as_its_precision_computes_it(precision, held, lm):
    reference = LiveReference.under(frozen_copy(Backbone(lm)), precision)
    assert reference.backbone.lm.model.layers[0].mlp.up_proj.weight.dtype == held
    assert lm.model.layers[0].mlp.up_proj.weight.dtype == torch.float32


def test_quantised_maps_are_left_alone(lm):
    backbone = frozen_copy(Backbone(lm))
    packed = torch.nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    backbone.lm.model.layers[0].mlp.up_proj.weight = packed
    convert_for_good(backbone, torch.bfloat16)
    assert backbone.lm.model.layers[0].mlp.up_proj.weight is packed
