"""A layer with room holds what transformers' own holds."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from alignkit.sampling.kv_cache import RoomyLayer, growing_cache


def states(batch: int, tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 2, tokens, 3, generator=generator), torch.randn(batch, 2, tokens, 3, generator=generator)


def test_it_grows_repeats_and_selects_as_transformers_own():
    roomy, plain = RoomyLayer(4), DynamicLayer()
    assert roomy.get_seq_length() == plain.get_seq_length() == 0

    def check() -> None:
        assert torch.equal(roomy.keys, plain.keys)
        assert torch.equal(roomy.values, plain.values)
        assert roomy.get_seq_length() == plain.get_seq_length()
        assert roomy.get_mask_sizes(1) == plain.get_mask_sizes(1)

    def update(batch: int, tokens: int, seed: int) -> None:
        for ours, theirs in zip(roomy.update(*states(batch, tokens, seed)), plain.update(*states(batch, tokens, seed)), strict=True):
            assert torch.equal(ours, theirs)
        check()

    update(2, 5, 0)
    for layer in (roomy, plain):
        layer.batch_repeat_interleave(3)
    check()
    update(6, 1, 1)
    for layer in (roomy, plain):
        layer.batch_select_indices(torch.tensor([4, 0, 3]))
    check()
    update(3, 1, 2)
    update(3, 2, 3)


def test_new_tokens_do_not_copy_the_old_ones():
    layer = RoomyLayer(3)
    before, _ = layer.update(*states(2, 5, 0))
    after, _ = layer.update(*states(2, 1, 1))
    assert after.data_ptr() == before.data_ptr()


def test_there_is_room_for_what_was_asked_for_and_no_more():
    layer = RoomyLayer(2)
    layer.update(*states(1, 5, 0))
    layer.update(*states(1, 2, 1))
    with pytest.raises(ValueError, match=r"^room for 7 positions, asked for 8$"):
        layer.update(*states(1, 1, 2))


def test_a_layer_that_holds_nothing_yet_is_left_alone():
    layer = RoomyLayer(2)
    layer.batch_repeat_interleave(3)
    layer.batch_select_indices(torch.tensor([0]))
    assert layer.get_seq_length() == 0


def test_layers_that_forget_stay_transformers_own():
    config = AutoConfig.for_model("gemma3_text", num_hidden_layers=2, sliding_window=4, layer_types=["sliding_attention", "full_attention"])
    assert [type(layer) for layer in growing_cache(config, 5).layers] == [DynamicSlidingWindowLayer, RoomyLayer]
