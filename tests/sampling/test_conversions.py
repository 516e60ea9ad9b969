"""Weights under autocast are converted once while tokens are drawn, and never outlive that."""

from __future__ import annotations

import pytest
import torch

from alignkit.sampling.conversions import weights_converted_once


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
