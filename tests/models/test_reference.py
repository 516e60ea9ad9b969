"""The reference stays what it was, and its fingerprint says so."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alignkit.caches.digests import function_digest
from alignkit.caches.quantities import TOKEN_LOGPS
from alignkit.data.collate import collate
from alignkit.errors import UserError
from alignkit.model_settings import UNUSED_LORA
from alignkit.models.adapters import adapters_off, add_adapters
from alignkit.models.backbone import Backbone
from alignkit.models.freezing import freeze, freeze_layers, train_embeddings
from alignkit.models.loading import load_lm
from alignkit.models.reference import (
    AdapterOffReference,
    CachedReference,
    LiveReference,
    MovingReference,
    backbone_logps,
    check_reference,
    fingerprint,
    frozen_copy,
    trunk_fingerprint,
)
from alignkit.modules.alignment import AlignmentModule

LORA = replace(UNUSED_LORA, rank=4, alpha=6.0)


def test_equal_weights_have_equal_fingerprints(architecture, lm_factory):
    first, second = Backbone(lm_factory(architecture)), Backbone(lm_factory(architecture))
    assert fingerprint(first) == fingerprint(second) == fingerprint(frozen_copy(first))
    assert len(fingerprint(first)) == 16


def test_one_changed_element_changes_the_fingerprint(lm_factory):
    backbone = Backbone(lm_factory("llama"))
    before = fingerprint(backbone)
    for parameter in backbone.parameters():
        flat = parameter.data.view(-1)
        kept = flat[-1].clone()
        flat[-1] = torch.nextafter(kept, kept + 1)
        assert fingerprint(backbone) != before
        flat[-1] = kept
    assert fingerprint(backbone) == before


def test_the_type_and_the_place_of_weights_are_part_of_the_fingerprint():
    def build(*tensors: tuple[str, torch.Tensor]) -> torch.nn.Module:
        module = torch.nn.Module()
        for name, tensor in tensors:
            module.register_buffer(name, tensor)
        return module

    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    modules = [
        build(("a", a), ("b", b)),
        build(("a", b), ("b", a)),
        build(("a", a), ("c", b)),
        build(("a", a[:, None]), ("b", b)),
        build(("a", a.double()), ("b", b)),
        build(("a", torch.zeros(2)), ("b", b)),
        build(("a", torch.zeros(2, dtype=torch.int32)), ("b", b)),  # the same bytes
    ]
    assert len({fingerprint(module) for module in modules}) == len(modules)


def test_a_frozen_backbone_is_the_same_one_without_gradients(lm_factory):
    backbone = Backbone(lm_factory("llama"))
    assert freeze(backbone) is backbone
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone.training


def test_the_copy_shares_no_memory_with_the_policy_and_leaves_it_trainable(lm_factory):
    backbone = Backbone(lm_factory("gpt2"))
    copy = frozen_copy(backbone)
    theirs = {parameter.data_ptr() for parameter in copy.parameters()}
    assert all(parameter.data_ptr() not in theirs for parameter in backbone.parameters())
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(parameter.requires_grad for parameter in copy.parameters())


def test_the_reference_does_not_move_while_the_policy_trains(lm_factory, examples_factory, module_factory, fit):
    module = module_factory("dpo", lm_factory("llama"))
    before = fingerprint(module.reference.backbone)
    assert fingerprint(module.backbone) == before
    fit(module, examples_factory(8))
    assert fingerprint(module.reference.backbone) == before
    assert fingerprint(module.backbone) != before


def test_the_reference_is_not_in_the_checkpoint(lm_factory, examples_factory, module_factory, fit, tmp_path):
    module = module_factory("joint_con_dph", lm_factory("llama"))
    trainer = fit(module, examples_factory(8))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert {name.split(".")[0] for name in saved} == {"backbone", "heads"}
    expected = {name: tensor for name, tensor in module.state_dict().items() if not name.startswith("reference.")}
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in expected.items())


def test_a_checkpoint_loads_beside_a_reference_built_from_its_own_source(lm_factory, examples_factory, module_factory, fit, tmp_path):
    trained = module_factory("dpo", lm_factory("llama"))
    fit(trained, examples_factory(8)).save_checkpoint(tmp_path / "last.ckpt")
    module = module_factory("dpo", lm_factory("llama"))
    reference = fingerprint(module.reference.backbone)
    # what `Trainer.fit(ckpt_path=...)` does
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=False)
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"], strict=module.strict_loading)
    assert fingerprint(module.backbone) == fingerprint(trained.backbone)
    assert fingerprint(module.reference.backbone) == reference


def test_cached_log_probs_are_not_in_the_checkpoint_and_a_checkpoint_loads_beside_them(
    lm_factory, examples_factory, module_factory, fit, asked, tmp_path
):
    examples = examples_factory(8)

    def build() -> AlignmentModule:
        module = module_factory("dpo", lm_factory("llama"))
        del module.reference
        module.reference = CachedReference(module.backbone)
        module.reference.load(asked(TOKEN_LOGPS, module.backbone, examples))
        return module

    trained = build()
    fit(trained, examples).save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"backbone"}
    module = build()
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"], strict=module.strict_loading)
    assert fingerprint(module.backbone) == fingerprint(trained.backbone)


def with_adapters(module: AlignmentModule, dropout: float = 0.0) -> AlignmentModule:
    """The module with adapters in its policy, whose reference is the policy without them."""
    add_adapters(module.backbone, replace(LORA, dropout=dropout))
    del module.reference
    module.reference = AdapterOffReference(module.backbone)
    return module


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_without_its_adapters_the_policy_is_its_own_reference_before_and_after_training(
    name, dropout, lm_factory, examples_factory, module_factory, fit
):
    module = with_adapters(module_factory("dpo", lm_factory(name)), dropout)
    batch = collate([examples_factory(5)], "packed")
    before, start = module.reference.token_logps(batch), trunk_fingerprint(module.backbone)
    assert torch.equal(before, backbone_logps(Backbone(lm_factory(name)), batch))
    assert torch.equal(before, backbone_logps(module.backbone, batch))
    fit(module, examples_factory(8))
    assert torch.equal(module.reference.token_logps(batch), before)
    assert trunk_fingerprint(module.backbone) == start == fingerprint(Backbone(lm_factory(name)))
    assert (backbone_logps(module.backbone.eval(), batch) - before).abs().max() > 1e-2


def test_a_policy_that_was_changed_in_memory_is_the_reference_as_it_is_now_not_as_it_lies_on_disk(lm_factory, examples_factory, tmp_path):
    lm_factory("llama").save_pretrained(tmp_path)
    stored, policy = (Backbone(load_lm("model.path", str(tmp_path), torch.float32)) for _ in range(2))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)
    batch = collate([examples_factory(3)], "packed")
    now = backbone_logps(policy, batch).detach()
    assert not torch.equal(now, backbone_logps(stored, batch))
    copy = frozen_copy(policy)
    assert fingerprint(copy) == fingerprint(policy) != fingerprint(stored)
    add_adapters(policy, LORA)
    for reference in (LiveReference(copy), AdapterOffReference(policy), MovingReference(frozen_copy(copy), mix=0.5, every=1)):
        assert torch.equal(reference.token_logps(batch), now)
    assert trunk_fingerprint(policy) == fingerprint(copy)


def test_what_a_reference_says_has_no_gradient_though_the_policys_own_trunk_is_trained(lm_factory, examples_factory):
    policy = Backbone(lm_factory("gpt2"))
    batch = collate([examples_factory(2)], "packed")
    assert policy.token_scores(policy.hidden_states(batch), batch).logps.requires_grad
    live, moving = LiveReference(frozen_copy(policy)), MovingReference(frozen_copy(policy), mix=0.5, every=1)
    for reference in (AdapterOffReference(policy), live, moving):
        assert not reference.token_logps(batch).requires_grad
        assert not reference.hidden_states(batch)[1].requires_grad


def test_a_policy_with_adapters_trains_as_against_a_frozen_copy_of_itself(lm_factory, examples_factory, module_factory, fit):
    weights = []
    for copied in (True, False):
        module = module_factory("dpo", lm_factory("llama"))
        kept = LiveReference(frozen_copy(module.backbone))
        torch.manual_seed(3)
        with_adapters(module)
        if copied:
            module.reference = kept
        fit(module, examples_factory(8))
        weights.append(fingerprint(module.backbone))
    assert weights[0] == weights[1]


def test_the_policys_own_reference_adds_nothing_to_the_module(lm_factory, module_factory):
    module = with_adapters(module_factory("dpo", lm_factory("llama")))
    assert {name.partition(".")[0] for name in module.state_dict()} == {"backbone"}
    assert len(list(module.parameters())) == len(list(module.backbone.parameters()))


def test_a_live_reference_tells_the_hidden_states_that_its_log_probs_come_from(lm_factory, examples_factory):
    batch = collate([examples_factory(4)], "packed")
    policy = add_adapters(Backbone(lm_factory("llama")), LORA)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    copy = frozen_copy(Backbone(lm_factory("llama")))
    for reference in (AdapterOffReference(policy), LiveReference(copy), MovingReference(copy, mix=0.5, every=1)):
        model, hidden = reference.hidden_states(batch)
        assert not hidden.requires_grad
        assert torch.equal(model.token_scores(hidden, batch).logps, reference.token_logps(batch))
        assert torch.equal(hidden, Backbone(lm_factory("llama")).hidden_states(batch))


def test_a_cache_of_the_full_model_is_that_of_the_model_with_adapters(lm_factory, examples_factory, asked):
    plain = Backbone(lm_factory("gpt2")).use_attention("tiles", "cpu")
    policy = add_adapters(Backbone(lm_factory("gpt2")).use_attention("tiles", "cpu"), LORA)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    assert function_digest(policy, trunk_fingerprint(policy)) == function_digest(plain, fingerprint(plain))
    examples = examples_factory(6)
    with adapters_off(policy):
        values = asked(TOKEN_LOGPS, policy, examples)
    expected = asked(TOKEN_LOGPS, plain, examples)
    assert all(torch.equal(values[key], expected[key]) for key in expected)


def test_a_resumed_run_has_the_reference_that_it_began_with(lm_factory, examples_factory, module_factory, fit, tmp_path):
    trained = with_adapters(module_factory("dpo", lm_factory("llama")))
    begun = trunk_fingerprint(trained.backbone)
    fit(trained, examples_factory(8)).save_checkpoint(tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=False)
    module = with_adapters(module_factory("dpo", lm_factory("llama")))
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"], strict=module.strict_loading)
    batch = collate([examples_factory(5)], "packed")
    check_reference(begun, trunk_fingerprint(module.backbone))
    assert fingerprint(module.backbone) == fingerprint(trained.backbone)
    assert torch.equal(module.reference.token_logps(batch), backbone_logps(Backbone(lm_factory("llama")), batch))
    with torch.no_grad():
        module.backbone.lm.lm_head.weight[0, 0] += 1
    with pytest.raises(UserError, match=rf"^reference: the run began against weights {begun}, and now there are "):
        check_reference(begun, trunk_fingerprint(module.backbone))


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_frozen_layers_are_the_first_ones_with_the_embeddings_below_them(name, lm_factory):
    backbone = freeze_layers(Backbone(lm_factory(name)), 1)
    trained = {parameter_name for parameter_name, parameter in backbone.lm.named_parameters() if parameter.requires_grad}
    first, second = backbone.layers()
    assert not any(parameter.requires_grad for parameter in (*first.parameters(), *backbone.lm.get_input_embeddings().parameters()))
    assert all(parameter.requires_grad for parameter in second.parameters())
    assert trained
    with pytest.raises(UserError, match=r"^model\.frozen_layers = 3; this model has 2 layers"):
        freeze_layers(Backbone(lm_factory(name)), 3)


def test_embeddings_alone_are_trained_and_the_layers_stay(lm_factory, examples_factory, module_factory, fit):
    module = module_factory("dpo", lm_factory("llama"))
    train_embeddings(module.backbone)
    before = {name: parameter.clone() for name, parameter in module.backbone.named_parameters()}
    fit(module, examples_factory(8))
    moved = {name for name, parameter in module.backbone.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {"lm.model.embed_tokens.weight", "lm.lm_head.weight"}
