"""The reference stays what it was, and its fingerprint says so."""

from __future__ import annotations

import torch

from alignkit.caches.quantities import TOKEN_LOGPS
from alignkit.models.backbone import Backbone
from alignkit.models.reference import CachedReference, fingerprint, freeze, frozen_copy
from alignkit.modules.alignment import AlignmentModule


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
