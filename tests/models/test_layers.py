"""Checkpointed and compiled layers compute what plain ones compute."""

from __future__ import annotations

import copy

import pytest
import torch

from alignkit.data.collate import collate
from alignkit.errors import UserError
from alignkit.models.backbone import Backbone


def log_probs_and_gradients(backbone: Backbone, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    backbone.zero_grad()
    logps = backbone.token_scores(backbone.hidden_states(batch), batch).logps
    logps.sin().sum().backward()
    return logps.detach(), {name: parameter.grad.clone() for name, parameter in backbone.named_parameters() if parameter.grad is not None}


def assert_equal(one, other, tolerance: float) -> None:
    assert (one[0] - other[0]).abs().max() <= tolerance
    assert one[1].keys() == other[1].keys()
    for name, gradient in one[1].items():
        assert (gradient - other[1][name]).abs().max() <= tolerance * max(1.0, float(gradient.abs().max())), name


@pytest.mark.parametrize("attention", ["tiles", "dense"])
def test_checkpointed_layers_equal_plain_ones_to_the_bit(architecture, lm_factory, examples_factory, attention):
    lm = lm_factory(architecture)
    plain = Backbone(lm).use_attention(attention, "cpu")
    checkpointed = Backbone(copy.deepcopy(lm)).use_attention(attention, "cpu").checkpoint_activations()
    batch = collate([examples_factory(5)], "packed")
    assert_equal(log_probs_and_gradients(plain, batch), log_probs_and_gradients(checkpointed, batch), 0.0)


def test_checkpointed_layers_keep_less_for_the_backward_pass(lm_factory, examples_factory):
    batch = collate([examples_factory(40)], "packed")
    kept = {}
    for checkpointed in (False, True):
        backbone = Backbone(lm_factory("llama", num_hidden_layers=6)).use_attention("tiles", "cpu")
        if checkpointed:
            backbone.checkpoint_activations()
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden = backbone.hidden_states(batch)
        kept[checkpointed] = sum(sizes.values())
        assert hidden.requires_grad
    assert kept[True] < 0.4 * kept[False]


def test_a_copy_of_a_checkpointed_model_runs_its_own_weights(lm_factory, examples_factory):
    backbone = Backbone(lm_factory("llama")).checkpoint_activations()
    batch = collate([examples_factory(2)], "packed")
    copied = copy.deepcopy(backbone)
    before = copied.hidden_states(batch)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.mul_(1.5)
    assert torch.equal(copied.hidden_states(batch), before)
    assert not torch.allclose(backbone.hidden_states(batch), before)


def test_a_model_without_known_layers_is_refused(lm_factory):
    lm = lm_factory("llama")
    for layer in lm.model.layers:
        layer.__class__ = type("Plain", (torch.nn.Module,), {"forward": type(layer).forward})
    with pytest.raises(UserError, match=r"not known.*model\.checkpointing=off"):
        Backbone(lm).checkpoint_activations()


# `aot_eager` captures and differentiates the graph as `inductor` does, without a C++ compiler; its slow twin is below.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf", "ignore::DeprecationWarning")  # of torch itself
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_layers_equal_eager_ones(lm_factory, examples_factory, backend):
    lm = lm_factory("llama")
    eager = Backbone(lm).use_attention("tiles", "cpu")
    compiled = Backbone(copy.deepcopy(lm)).use_attention("tiles", "cpu").compile_layers(backend)
    for seed in (0, 1):  # of other lengths
        batch = collate([examples_factory(4 + seed, seed=seed)], "packed")
        assert_equal(log_probs_and_gradients(eager, batch), log_probs_and_gradients(compiled, batch), 1e-4)
