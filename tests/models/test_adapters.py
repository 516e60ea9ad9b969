"""Adapters are the function that the paper says, train alone, can be switched off and merged, and bring their own dropout."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from alignkit.data.collate import collate
from alignkit.errors import UserError
from alignkit.model_settings import AdapterSettings
from alignkit.models.adapters import (
    AdapterDropout,
    adapter_layers,
    adapters_off,
    add_adapters,
    has_adapters,
    merged_weights,
    target_layers,
    trunk_state,
)
from alignkit.models.backbone import Backbone
from alignkit.models.reference import AdapterOffReference, backbone_logps, fingerprint, frozen_copy, trunk_fingerprint

LORA = AdapterSettings(rank=4, alpha=6.0, dropout=0.0, targets=None, export="merged")


def train_by_hand(backbone: Backbone) -> Backbone:
    """Give every trained weight another value, as if steps had been made."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype))
    return backbone


@pytest.fixture
def adapted(lm_factory) -> Callable[..., Backbone]:
    """A backbone with adapters that change what it computes."""

    def build(architecture: str = "llama", lora: AdapterSettings = LORA, **options: object) -> Backbone:
        return train_by_hand(add_adapters(Backbone(lm_factory(architecture, **options)).use_attention("tiles", "cpu"), lora))

    return build


def test_fresh_adapters_change_no_bit_of_the_model(architecture, lm_factory, examples_factory):
    backbone = Backbone(lm_factory(architecture)).use_attention("tiles", "cpu")
    batch = collate([examples_factory(4)], "packed")
    before = backbone_logps(backbone, batch)
    assert not has_adapters(backbone.lm)
    assert add_adapters(backbone, LORA) is backbone
    assert has_adapters(backbone.lm)
    assert torch.equal(backbone_logps(backbone, batch), before)
    assert type(backbone.lm).__name__ == type(lm_factory(architecture)).__name__
    assert len(backbone.layers()) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_fresh_adapters_change_no_bit_in_bf16_and_are_float32_themselves(dtype, lm_factory, examples_factory):
    backbone = Backbone(lm_factory("gpt2", dtype=dtype))
    batch = collate([examples_factory(4)], "packed")
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.float32):
        before = backbone_logps(backbone, batch)
        assert torch.equal(backbone_logps(add_adapters(backbone, LORA), batch), before)
    assert {parameter.dtype for parameter in backbone.parameters() if parameter.requires_grad} == {torch.float32}
    assert backbone.lm.dtype == dtype


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_layer_with_an_adapter_computes_the_papers_formula(name, adapted):
    torch.manual_seed(0)
    for layer in adapter_layers(adapted(name, dtype=torch.float64).lm).values():
        base = layer.get_base_layer()
        weight = base.weight.T if isinstance(base, Conv1D) else base.weight  # [out, in]
        states = torch.randn(5, weight.shape[1], dtype=torch.float64)
        down, up = (part["default"].weight for part in (layer.lora_A, layer.lora_B))
        assert (down.shape, up.shape) == ((4, weight.shape[1]), (weight.shape[0], 4))
        expected = states @ weight.T + (0 if base.bias is None else base.bias) + 6.0 / 4 * (states @ down.T) @ up.T
        assert (layer(states) - expected).abs().max() < 1e-10


def test_adapters_alone_are_trained_and_all_of_them(architecture, lm_factory, examples_factory):
    backbone = add_adapters(Backbone(lm_factory(architecture)), LORA)
    backbone_logps(backbone, collate([examples_factory(4)], "packed")).sum().backward()
    trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in backbone.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[-3] for name in trained} == {"lora_A", "lora_B"}
    assert len(trained) == 2 * len(adapter_layers(backbone.lm)) > 0
    ups = [parameter for name, parameter in backbone.named_parameters() if "lora_B" in name]
    assert all(bool(parameter.grad.any()) for parameter in ups)


def test_checkpointed_layers_with_adapters_equal_plain_ones_to_the_bit(architecture, adapted, examples_factory):
    plain = adapted(architecture)
    checkpointed = copy.deepcopy(plain).checkpoint_activations()
    batch = collate([examples_factory(5)], "packed")
    gradients = []
    for backbone in (plain, checkpointed):
        logps = backbone_logps(backbone, batch)
        # The reference runs between the policy's two passes, and must leave the adapters on.
        AdapterOffReference(backbone).token_logps(batch)
        logps.sin().sum().backward()
        gradients.append([logps.detach(), *(parameter.grad for parameter in backbone.parameters() if parameter.grad is not None)])
    assert len(gradients[0]) > 1
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@pytest.mark.slow  # a minute of compiling; without adapters the same is tested in test_layers.py
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf", "ignore::DeprecationWarning")  # of torch itself
def test_compiled_layers_with_adapters_equal_eager_ones_on_and_off(adapted, examples_factory):
    eager = adapted(lora=replace(LORA, dropout=0.5)).eval()
    compiled = copy.deepcopy(eager).compile_layers("aot_eager")
    batch = collate([examples_factory(4)], "packed")
    assert (backbone_logps(compiled, batch) - backbone_logps(eager, batch)).abs().max() < 1e-4
    off = [AdapterOffReference(backbone).token_logps(batch) for backbone in (compiled, eager)]
    assert (off[0] - off[1]).abs().max() < 1e-4
    assert (backbone_logps(eager, batch) - off[1]).abs().max() > 1e-2
    assert not torch.equal(backbone_logps(compiled.train(), batch), backbone_logps(compiled, batch))


def test_switched_off_the_model_is_the_one_from_before_to_the_bit(architecture, lm_factory, adapted, examples_factory):
    batch = collate([examples_factory(4)], "packed")
    before = backbone_logps(Backbone(lm_factory(architecture)).use_attention("tiles", "cpu"), batch)
    backbone = adapted(architecture)
    with_adapters = backbone_logps(backbone, batch)
    assert (with_adapters - before).abs().max() > 1e-2
    with adapters_off(backbone) as switched:
        assert switched is backbone
        assert torch.equal(backbone_logps(backbone, batch), before)
    assert torch.equal(backbone_logps(backbone, batch), with_adapters)


def test_switching_off_leaves_what_is_trained_as_it_was(adapted, lm_factory):
    backbone = adapted()
    for frozen in (False, True):
        backbone.requires_grad_(False)
        for layer in adapter_layers(backbone.lm).values():
            layer.lora_B.requires_grad_(not frozen)
        before = [parameter.requires_grad for parameter in backbone.parameters()]
        with pytest.raises(KeyboardInterrupt), adapters_off(backbone):
            raise KeyboardInterrupt
        assert [parameter.requires_grad for parameter in backbone.parameters()] == before
    plain = Backbone(lm_factory("llama"))
    with adapters_off(plain):
        pass
    assert all(parameter.requires_grad for parameter in plain.parameters())


def test_the_trunk_keeps_its_names_values_and_fingerprint_under_adapters(architecture, lm_factory, adapted):
    plain = Backbone(lm_factory(architecture))
    backbone = adapted(architecture)
    state = trunk_state(backbone)
    assert state.keys() == plain.state_dict().keys()
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in state.items())
    assert trunk_fingerprint(backbone) == trunk_fingerprint(plain) == fingerprint(plain)
    before = fingerprint(backbone)
    assert fingerprint(train_by_hand(backbone)) != before
    assert trunk_fingerprint(backbone) == fingerprint(plain)


def test_merged_weights_compute_what_the_adapters_compute(architecture, lm_factory, adapted):
    backbone = adapted(architecture, dtype=torch.float64)
    before = fingerprint(backbone)
    plain = lm_factory(architecture, dtype=torch.float64).eval()
    plain.load_state_dict(dict(merged_weights(backbone)))
    ids = torch.arange(3, 43).view(2, 20)
    backbone.lm.set_attn_implementation("sdpa")
    plain.set_attn_implementation("sdpa")
    assert (plain(ids).logits - backbone.lm(ids).logits).abs().max() < 1e-9
    assert fingerprint(backbone) == before
    assert len(adapter_layers(backbone.lm)) > 0


def test_merged_bf16_weights_are_rounded_once(adapted):
    """W + 6/4 B A, computed in float64 and rounded at the end."""
    backbone = adapted(dtype=torch.bfloat16)
    merged = dict(merged_weights(backbone))
    for name, layer in adapter_layers(backbone.lm).items():
        down, up = (part["default"].weight.double() for part in (layer.lora_A, layer.lora_B))
        exact = layer.get_base_layer().weight.double() + 1.5 * up @ down
        assert merged[f"{name}.weight"].dtype == torch.bfloat16
        half_a_place = 2.0 ** (exact.abs().log2().floor() - 8)
        assert ((merged[f"{name}.weight"].double() - exact).abs() <= 1.01 * half_a_place).all()


def test_the_merged_weights_of_a_model_without_adapters_are_its_own(lm_factory):
    backbone = Backbone(lm_factory("gpt2"))
    own = backbone.lm.state_dict()
    merged = dict(merged_weights(backbone))
    assert merged.keys() == own.keys()
    assert all(tensor.data_ptr() == own[name].data_ptr() for name, tensor in merged.items())


def test_dropout_of_adapters_is_on_in_training_alone_while_the_trunks_stays_off(adapted, examples_factory):
    backbone = adapted("opt", replace(LORA, dropout=0.5), dropout=0.5)
    without = adapted("opt", dropout=0.5)
    batch = collate([examples_factory(3)], "packed")
    assert not torch.equal(backbone_logps(backbone.train(), batch), backbone_logps(backbone, batch))
    assert torch.equal(backbone_logps(backbone.eval(), batch), backbone_logps(backbone, batch))
    assert torch.equal(backbone_logps(backbone, batch), backbone_logps(without.train(), batch))
    # in training mode, too: the reference, and a copy that is frozen
    reference = AdapterOffReference(backbone.train())
    assert torch.equal(reference.token_logps(batch), AdapterOffReference(without).token_logps(batch))
    kept = frozen_copy(backbone)
    assert backbone.training
    assert torch.equal(backbone_logps(kept, batch), backbone_logps(without, batch))


@settings(deadline=None, max_examples=10)
@given(rate=st.floats(0.05, 0.9))
def test_dropout_drops_its_rate_and_keeps_the_mean(rate):
    backbone = nn.Module().train()
    dropout = AdapterDropout(rate, backbone)  # type: ignore[arg-type]
    torch.manual_seed(0)
    states = dropout.eval()(torch.ones(20_000))  # its own mode is the language model's, which says nothing
    assert states.unique().tolist() == [0.0, pytest.approx(1 / (1 - rate), rel=1e-5)]
    assert float((states == 0).float().mean()) == pytest.approx(rate, abs=0.02)
    assert torch.equal(dropout(states), states) is False
    backbone.eval()
    assert torch.equal(dropout.train()(states), states)


def test_in_a_real_run_dropout_is_on_in_training_and_off_in_validation(lm_factory, examples_factory, module_factory, fit, monkeypatch):
    module = module_factory("dpo", lm_factory("llama"))
    add_adapters(module.backbone, replace(LORA, dropout=0.3))
    dropouts = [layer.lora_dropout["default"] for layer in adapter_layers(module.backbone.lm).values()]
    del module.reference
    module.reference = AdapterOffReference(module.backbone)
    seen: dict[bool, set[bool]] = {True: set(), False: set()}
    forward = AdapterDropout.forward

    def watched(self: AdapterDropout, states: Tensor) -> Tensor:
        result = forward(self, states)
        seen[module.training].add(torch.equal(result, states))
        return result

    monkeypatch.setattr(AdapterDropout, "forward", watched)
    fit(module, examples_factory(8), validation=examples_factory(3, seed=1), validate_every=2)
    assert len(dropouts) == 14
    assert seen == {True: {False}, False: {True}}


def test_every_linear_layer_inside_the_trunks_layers_gets_an_adapter_and_no_other(architecture, lm_factory):
    backbone = Backbone(lm_factory(architecture))
    inside = [name for name, module in backbone.lm.named_modules() if any(module is layer for layer in backbone.layers())]
    linear = {name for name, module in backbone.lm.named_modules() if isinstance(module, (nn.Linear, Conv1D))}
    wanted = {name for name in linear if any(name.startswith(f"{layer}.") for layer in inside)}
    output = type(backbone.lm.get_output_embeddings())
    assert set(adapter_layers(add_adapters(backbone, LORA).lm)) == wanted
    assert len(wanted) >= 8
    assert type(backbone.lm.get_output_embeddings()) is output is nn.Linear


def test_targets_name_layers_by_the_ends_of_their_names(lm_factory):
    backbone = Backbone(lm_factory("llama"))
    found = target_layers(backbone, ["q_proj", "layers.1.mlp.up_proj"])
    assert set(found) == {"model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"}
    add_adapters(backbone, replace(LORA, targets=["q_proj", "layers.1.mlp.up_proj"]))
    assert set(adapter_layers(backbone.lm)) == set(found)
    assert len(target_layers(Backbone(lm_factory("llama")), None)) == 14


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("q_prj", r"no linear layer is called 'q_prj'\. Did you mean 'q_proj'\? Choose of down_proj, gate_proj"),
        ("proj", "no linear layer is called 'proj'"),
        ("embed_tokens", "no linear layer"),
        ("lm_head", "'lm_head' is the output embedding, which gets no adapter"),
    ],
)
def test_a_target_that_names_no_layer_is_refused_with_those_that_there_are(target, words, lm_factory):
    with pytest.raises(UserError, match=rf"^model\.lora\.targets: {words}"):
        add_adapters(Backbone(lm_factory("llama")), replace(LORA, targets=["q_proj", target]))


def test_models_that_cannot_be_adapted_as_asked_are_refused_with_what_to_type(lm_factory):
    with pytest.raises(UserError, match=r"peft cannot adapt this model .*out_proj.*model\.lora\.targets="):
        add_adapters(Backbone(lm_factory("mamba")), LORA)
    lm = lm_factory("llama")
    for layer in lm.model.layers:
        layer.__class__ = type("Plain", (nn.Module,), {"forward": type(layer).forward})
    with pytest.raises(UserError, match=r"layers of a LlamaForCausalLM are not known\. Name some with model\.lora\.targets="):
        add_adapters(Backbone(lm), LORA)
    assert len(adapter_layers(add_adapters(Backbone(lm), replace(LORA, targets=["v_proj"])).lm)) == 2


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of torch itself
def test_a_trunk_without_values_takes_adapters_and_runs(lm_factory, examples_factory):
    config = lm_factory("gpt2").config
    with FakeTensorMode(allow_non_fake_inputs=True):
        lm = AutoModelForCausalLM.from_config(config)
    backbone = add_adapters(Backbone(lm), LORA)
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    # two layers of attention (32 to 96 and to 32) and feed-forward (32 to 128 and back), each in + out times rank
    assert sum(parameter.numel() for parameter in trained) == 2 * 4 * ((32 + 96) + (32 + 32) + (32 + 128) + (128 + 32))
    backbone_logps(backbone, collate([examples_factory(2)], "packed")).sum().backward()
    assert all(isinstance(parameter.grad, FakeTensor) for parameter in trained)
