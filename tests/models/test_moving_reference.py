"""A reference that moves takes its share of the policy, when it is due, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignkit.data.collate import collate
from alignkit.errors import UserError
from alignkit.model_settings import UNUSED_LORA, ReferenceSettings
from alignkit.models.adapters import add_adapters
from alignkit.models.backbone import Backbone
from alignkit.models.reference import MovingReference, backbone_logps, frozen_copy

LORA = replace(UNUSED_LORA, rank=4, alpha=6.0)


def moved(reference: MovingReference, name: str) -> torch.Tensor:
    return reference.backbone.lm.get_parameter(name).clone()


def test_a_moving_reference_takes_six_tenths_of_the_policy_every_third_step(lm_factory):
    """r <- 0.6 p + 0.4 r from r = 1: against p = 3 it is 2.2, then against p = 5 it is 3.88."""
    policy = Backbone(lm_factory("llama", dtype=torch.float64))
    norm = policy.lm.get_parameter("model.norm.weight")
    norm.data.fill_(1.0)
    reference = MovingReference(frozen_copy(policy), mix=0.6, every=3)
    norm.data.fill_(3.0)
    assert [reference.after_step(step, policy) for step in (1, 2, 3)] == [False, False, True]
    assert (moved(reference, "model.norm.weight") - 2.2).abs().max() < 1e-12
    norm.data.fill_(5.0)
    assert [reference.after_step(step, policy) for step in (4, 5, 6, 7)] == [False, False, True, False]
    assert (moved(reference, "model.norm.weight") - 3.88).abs().max() < 1e-12
    assert float(norm.data.mean()) == 5.0
    assert not any(parameter.requires_grad for parameter in reference.parameters())


@settings(deadline=None, max_examples=8)
@given(mix=st.floats(0.05, 1.0), times=st.integers(1, 4))
def test_a_policy_that_stands_still_is_approached_geometrically(mix, times, lm_factory):
    """After n mixings the distance is (1 - mix)^n of what it was, for every weight; a tied weight moves once each time."""
    policy = Backbone(lm_factory("gpt2", dtype=torch.float64))
    reference = MovingReference(frozen_copy(policy), mix=mix, every=1)
    start = {name: parameter.clone() for name, parameter in reference.backbone.lm.named_parameters()}
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter))
    goal = dict(policy.lm.named_parameters())
    for step in range(times):
        reference.after_step(step + 1, policy)
    for name, parameter in reference.backbone.lm.named_parameters():
        expected = goal[name] + (1 - mix) ** times * (start[name] - goal[name])
        assert (parameter - expected).abs().max() < 1e-12, name


def test_a_reference_that_is_replaced_is_the_policy_to_the_bit(architecture, lm_factory, examples_factory):
    policy = Backbone(lm_factory(architecture))
    reference = MovingReference(frozen_copy(policy), mix=1.0, every=512)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.1)
    batch = collate([examples_factory(3)], "packed")
    before = reference.token_logps(batch)
    assert not reference.after_step(511, policy)
    assert torch.equal(reference.token_logps(batch), before)
    assert reference.after_step(512, policy)
    assert torch.equal(reference.token_logps(batch), backbone_logps(policy, batch))
    assert not torch.equal(reference.token_logps(batch), before)


def test_a_moving_reference_follows_the_adapters_of_the_policy_merged(lm_factory, examples_factory):
    policy = Backbone(lm_factory("gpt2", dtype=torch.float64))
    reference = MovingReference(frozen_copy(policy), mix=1.0, every=1)
    add_adapters(policy, LORA)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    batch = collate([examples_factory(3)], "packed")
    assert (reference.token_logps(batch) - backbone_logps(policy, batch)).abs().max() > 1e-2
    assert reference.after_step(1, policy)
    assert (reference.token_logps(batch) - backbone_logps(policy, batch)).abs().max() < 1e-9


def test_mixed_bf16_weights_are_rounded_once(lm_factory):
    policy = Backbone(lm_factory("llama", dtype=torch.bfloat16))
    reference = MovingReference(frozen_copy(policy), mix=0.3, every=1)
    before = moved(reference, "lm_head.weight").double()
    torch.manual_seed(0)
    policy.lm.lm_head.weight.data.normal_()
    reference.after_step(1, policy)
    exact = 0.3 * policy.lm.lm_head.weight.double() + 0.7 * before
    half_a_place = 2.0 ** (exact.abs().log2().floor() - 8)
    assert ((moved(reference, "lm_head.weight").double() - exact).abs() <= half_a_place + 1e-7).all()  # float32 where they cancel


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": "copy"}, r"^reference\.source = 'copy'; must be one of cache, memory, moving"),
        ({"mix": 0.5}, r"^reference\.mix = 0\.5 has no effect: the reference stands still\. Type reference=moving"),
        ({"every": 5}, r"^reference\.every = 5 has no effect"),
        ({"source": "moving", "every": 5}, r"^reference\.mix is missing.*Type reference=moving"),
        ({"source": "moving", "mix": 0.0, "every": 5}, r"^reference\.mix = 0\.0; must be a number in \(0, 1\]"),
        ({"source": "moving", "mix": 1.1, "every": 5}, r"^reference\.mix = 1\.1"),
        ({"source": "moving", "mix": 0.6, "every": 0}, r"^reference\.every = 0; must be a number in \[1"),
        ({"source": "moving", "mix": 0.6, "every": 1, "path": "x"}, r"^reference\.path = 'x' with reference=moving"),
    ],
)
def test_a_reference_that_cannot_be_or_options_without_effect_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        ReferenceSettings(**{"source": "cache", "path": None, "mix": None, "every": None, **changes})
