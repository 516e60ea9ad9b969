"""Hidden states of several layers out of one pass, against hooks on the blocks themselves."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from alignkit.data.collate import collate, micro_batches
from alignkit.data.packing import Packing
from alignkit.errors import UserError
from alignkit.models.backbone import Backbone, check_layers
from alignkit.models.terminal_states import terminal_states

ALL = [0, 1, 2]
"""The toy models have two blocks."""


def seen_by_hooks(backbone: Backbone, batch) -> list[Tensor]:
    """[R * T, D] of what goes into the first block, and of what comes out of each one."""
    seen: list[Tensor] = []

    def entered(module, args):
        seen.append(args[0])

    def left(module, args, output):
        seen.append(output[0] if isinstance(output, tuple) else output)

    blocks = backbone.layers()
    hooks = [blocks[0].register_forward_pre_hook(entered), *(block.register_forward_hook(left) for block in blocks)]
    backbone.hidden_states(batch)
    for hook in hooks:
        hook.remove()
    return [states.flatten(0, 1) for states in seen]


def test_layers_are_the_embeddings_what_blocks_put_out_and_the_final_state(architecture, lm_factory, examples_factory):
    backbone = Backbone(lm_factory(architecture))
    batch = collate([examples_factory(3)], "packed")
    embeddings, after_first, after_second = seen_by_hooks(backbone, batch)
    final = backbone.hidden_states(batch)
    layers = backbone.hidden_layers(batch, [0, 1, 2, -1, -2, -3])
    for ours, expected in zip(layers, (embeddings, after_first, final, final, after_first, embeddings), strict=True):
        assert torch.equal(ours, expected)
    assert not torch.allclose(layers[2], after_second, atol=0.01)  # the last is after the final norm, not before


@pytest.mark.parametrize("name", ["mistral", "gemma3_text", "bloom"])
def test_models_in_rows_have_layers_too(name, lm_factory, examples_factory):
    backbone = Backbone(lm_factory(name))
    (batch,) = micro_batches(examples_factory(3), Packing(layout="rows", tokens=10_000, row_tokens=1))
    first, after_first, after_second = seen_by_hooks(backbone, batch)
    embeddings, middle, last = backbone.hidden_layers(batch, [0, 1, -1])
    assert torch.equal(embeddings, first)
    assert torch.equal(middle, after_first)
    assert torch.equal(last, backbone.hidden_states(batch))
    assert not torch.allclose(last, after_second, atol=0.01)


def test_layers_come_in_the_order_asked_for_and_out_of_one_pass(lm_factory, examples_factory):
    backbone = Backbone(lm_factory("llama"))
    batch = collate([examples_factory(3)], "packed")
    passes: list[None] = []
    backbone.decoder.register_forward_hook(lambda *args: passes.append(None))
    last, first, again = backbone.hidden_layers(batch, [-1, 0, -1])
    assert len(passes) == 1
    assert torch.equal(last, again)
    assert not torch.allclose(first, last, atol=0.1)


def test_the_final_state_alone_is_that_of_hidden_states_to_the_bit(architecture, lm_factory, examples_factory):
    backbone = Backbone(lm_factory(architecture))
    batch = collate([examples_factory(3)], "packed")
    (states,) = backbone.hidden_layers(batch, [-1])
    assert torch.equal(states, backbone.hidden_states(batch))
    backbone.hidden_layers(batch, ALL)
    assert torch.equal(states, backbone.hidden_states(batch))


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_packed_and_rows_have_the_same_layers_where_completions_end(name, lm_factory, examples_factory):
    backbone = Backbone(lm_factory(name))
    examples = examples_factory(4)
    packed, rows = (collate([[example] for example in examples], layout) for layout in ("packed", "rows"))
    for ours, theirs in zip(backbone.hidden_layers(packed, ALL), backbone.hidden_layers(rows, ALL), strict=True):
        assert torch.allclose(terminal_states(ours, packed), terminal_states(theirs, rows), atol=1e-4)


def gradients(backbone: Backbone, batch) -> dict[str, Tensor]:
    backbone.zero_grad()
    sum(states.sin().sum() for states in backbone.hidden_layers(batch, ALL)).backward()
    return {name: parameter.grad.clone() for name, parameter in backbone.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_checkpointed_layers_are_the_same_and_have_the_same_gradients(name, lm_factory, examples_factory):
    lm = lm_factory(name)
    plain, checkpointed = Backbone(lm), Backbone(copy.deepcopy(lm)).checkpoint_activations()
    batch = collate([examples_factory(3)], "packed")
    for ours, theirs in zip(plain.hidden_layers(batch, ALL), checkpointed.hidden_layers(batch, ALL), strict=True):
        assert torch.equal(ours, theirs)
    ours, theirs = gradients(plain, batch), gradients(checkpointed, batch)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(gradient, theirs[name]) for name, gradient in ours.items())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf", "ignore::DeprecationWarning")  # of torch itself
def test_layers_of_compiled_blocks_are_found_even_after_a_pass_that_did_not_ask(lm_factory, examples_factory):
    lm = lm_factory("llama")
    eager = Backbone(lm).use_attention("tiles", "cpu")
    compiled = Backbone(copy.deepcopy(lm)).use_attention("tiles", "cpu").compile_layers("aot_eager")
    batch = collate([examples_factory(3)], "packed")
    compiled.hidden_states(batch)
    for ours, theirs in zip(eager.hidden_layers(batch, ALL), compiled.hidden_layers(batch, ALL), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("layer", [3, -4, 100])
def test_a_layer_that_the_model_does_not_have_is_refused(layer, lm_factory, examples_factory):
    backbone = Backbone(lm_factory("gpt2"))
    with pytest.raises(UserError, match=rf"loss\.head\.layers = \[1, {layer}\]: the model has no layer {layer}; .*1 to 2"):
        backbone.hidden_layers(collate([examples_factory(1)], "packed"), [1, layer])
    with pytest.raises(UserError, match="no layer"):
        check_layers([layer], backbone.lm.config)  # before there are weights


def test_a_layer_of_another_width_than_the_final_state_is_refused(lm_factory, examples_factory):
    backbone = Backbone(lm_factory("opt", word_embed_proj_dim=16))
    batch = collate([examples_factory(1)], "packed")
    assert backbone.hidden_layers(batch, [-1])[0].shape[1] == 16
    with pytest.raises(UserError, match=r"layer 1 .* is 32 wide.* 16"):
        backbone.hidden_layers(batch, [-1, 1])
