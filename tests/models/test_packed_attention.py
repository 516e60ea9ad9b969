"""Tiles and block masks against the dense mask, which tests of its own hold to the definition."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from transformers import AutoModelForCausalLM

from alignkit.data.collate import collate
from alignkit.data.examples import EncodedExample
from alignkit.errors import UserError
from alignkit.models import packed_attention, tiled_attention
from alignkit.models.attention import visibility
from alignkit.models.backbone import Backbone
from alignkit.models.flex_attention import BLOCK, block_mask
from alignkit.models.tiled_attention import Tile, tile_table


def ragged(count: int, *, longest: int, seed: int = 0) -> list[EncodedExample]:
    """Prompts and one to three completions of up to `longest` tokens."""
    generator = torch.Generator().manual_seed(seed)

    def ids() -> tuple[int, ...]:
        return tuple(torch.randint(3, 97, (int(torch.randint(1, longest + 1, (1,), generator=generator)),), generator=generator).tolist())

    return [EncodedExample(key=n, prompt_ids=ids(), completion_ids=tuple(ids() for _ in range(1 + n % 3))) for n in range(count)]


def states_and_gradients(backbone: Backbone, batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    backbone.zero_grad()
    real = (batch.example_ids >= 0).flatten()[:, None]
    hidden = backbone.hidden_states(batch)
    (hidden.sin() * real).sum().backward()
    return (hidden * real).detach(), {n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(("tile", "kept"), [(256, 512), (7, 512), (7, 4)], ids=["one tile", "tiles", "recomputed"])
def test_tiles_equal_the_dense_mask(architecture, lm_factory, monkeypatch, tile, kept, rows):
    monkeypatch.setattr(tiled_attention, "KEPT_KEYS", kept)
    monkeypatch.setattr("alignkit.models.backbone.tile_table", lambda batch: tile_table(batch, tile))
    lm = lm_factory(architecture, dtype=torch.float64)
    dense, tiled = Backbone(lm), Backbone(copy.deepcopy(lm)).use_attention("auto", "cpu")
    assert tiled.attention == "tiles"
    examples = ragged(6, longest=20)
    batch = collate([examples] if rows == 1 else [examples[:4], examples[4:]], "packed")
    expected, expected_gradients = states_and_gradients(dense, batch)
    hidden, gradients = states_and_gradients(tiled, batch)
    assert (hidden - expected).abs().max() < 1e-12
    assert gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        assert (gradients[name] - gradient).abs().max() <= 1e-10 * max(1.0, float(gradient.abs().max())), name


def test_the_tiles_of_the_worked_example():
    # p0 p1 a0 a1 b0: the first completion continues its prompt; the second sees the prompt as its prefix
    batch = collate([[EncodedExample(key=0, prompt_ids=(3, 4), completion_ids=((5, 6), (7,)))]], "packed")
    assert tile_table(batch)[0, 0].tolist() == [list(Tile(0, 4, 0, 0, 0)), list(Tile(4, 5, 0, 2, 4))]
    assert tile_table(batch, 3)[0, 0].tolist() == [list(Tile(0, 3, 0, 0, 0)), list(Tile(3, 4, 0, 0, 0)), list(Tile(4, 5, 0, 2, 4))]


def test_tiles_name_each_visible_pair_once_and_no_other():
    batch = collate([ragged(7, longest=30, seed=3)], "packed")
    seen = torch.zeros_like(visibility(batch)[0], dtype=torch.int32)
    for begin, end, prefix_begin, prefix_end, own in tile_table(batch, 16)[0, 0].tolist():
        seen[begin:end, prefix_begin:prefix_end] += 1
        for query in range(begin, end):
            seen[query, own : query + 1] += 1
    assert torch.equal(seen, visibility(batch)[0].int())


def test_what_the_backward_pass_keeps_grows_with_tokens_and_not_with_their_square(lm_factory):
    kept = {}
    for length in (2000, 4000):
        lm = lm_factory("llama", max_position_embeddings=8192)
        backbone = Backbone(lm).use_attention("tiles", "cpu")
        batch = collate([[EncodedExample(key=0, prompt_ids=(5,), completion_ids=((6,) * length,))]], "packed")
        sizes: dict[int, int] = {}

        def keep(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            backbone.hidden_states(batch)
        kept[length] = sum(sizes.values())
    assert kept[4000] < 2.2 * kept[2000]


def test_bf16_tiles_are_as_near_to_float64_as_bf16_sdpa(lm_factory):
    exact = Backbone(lm_factory("llama", dtype=torch.float64))
    batch = collate([ragged(6, longest=30)], "packed")
    truth, _ = states_and_gradients(exact, batch)
    errors = {}
    for kind in ("dense", "tiles"):
        backbone = Backbone(lm_factory("llama")).use_attention(kind, "cpu")
        with torch.autocast("cpu", torch.bfloat16):
            errors[kind] = float((states_and_gradients(backbone, batch)[0] - truth).square().mean().sqrt())
    assert errors["tiles"] < 1.5 * errors["dense"]
    assert errors["tiles"] > 0


def test_generation_is_untouched(architecture, lm_factory):
    plain = Backbone(lm_factory(architecture)).lm
    tiled = Backbone(lm_factory(architecture)).use_attention("tiles", "cpu").lm
    ids = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]])
    mask = (ids > 0).long()
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(plain.generate(ids, attention_mask=mask, **options), tiled.generate(ids, attention_mask=mask, **options))


def test_the_attention_is_not_saved_with_the_model(tmp_path, lm_factory):
    Backbone(lm_factory("llama")).use_attention("tiles", "cpu").lm.save_pretrained(tmp_path)
    assert packed_attention.NAME not in (tmp_path / "config.json").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_models_with_an_attention_of_their_own_stay_dense(lm_factory):
    assert Backbone(lm_factory("bloom")).use_attention("auto", "cpu").attention == "dense"
    with pytest.raises(UserError, match=r"brings its own attention.*model\.attention=dense"):
        Backbone(lm_factory("bloom")).use_attention("tiles", "cpu")


@pytest.mark.parametrize(("kind", "device", "message"), [("flex", "cpu", "aborts the process"), ("tiles", "cuda", "made for CPUs")])
def test_an_attention_on_the_wrong_device_is_refused(lm_factory, kind, device, message):
    with pytest.raises(UserError, match=message):
        Backbone(lm_factory("llama")).use_attention(kind, device)


def test_scores_that_tiles_cannot_compute_are_refused():
    states = torch.zeros(1, 1, 4, 8)
    table = torch.zeros(1, 1, 1, 5, dtype=torch.int64)
    with pytest.raises(UserError, match=r"softcap.*model\.attention=dense"):
        packed_attention.packed_attention(torch.nn.Identity(), states, states, states, table, softcap=30.0)


@pytest.mark.parametrize("rows", [1, 2])
def test_block_masks_leave_out_nothing_that_is_seen_and_call_full_only_what_is(rows):
    long = EncodedExample(key=9, prompt_ids=(5,) * 500, completion_ids=((6,) * 400, (7,) * 300))
    examples = [*ragged(9, longest=200, seed=rows), long]
    batch = collate([examples] if rows == 1 else [examples[:5], examples[5:]], "packed", BLOCK)
    mask, visible = block_mask(batch), visibility(batch)
    count = visible.shape[1] // BLOCK
    pairs = visible.view(rows, count, BLOCK, count, BLOCK).transpose(2, 3)
    listed = mask.to_dense()[:, 0].bool()
    own = torch.eye(count, dtype=torch.bool)
    needed = pairs.any(-1).any(-1)
    assert not (needed & ~listed).any()
    assert listed.sum() < 1.3 * needed.sum()
    full = torch.zeros_like(listed)
    for row in range(rows):
        for query in range(count):
            keys = mask.full_kv_indices[row, 0, query, : int(mask.full_kv_num_blocks[row, 0, query])]
            full[row, query, keys.long()] = True
    assert full.any()
    assert pairs.all(-1).all(-1)[full].all()
    assert not (full & own).any()


def test_flex_attention_equals_the_dense_mask():
    batch = collate([ragged(5, longest=60, seed=4)], "packed", BLOCK)
    query, key, value = torch.randn(3, 1, 2, batch.input_ids.shape[1], 16, dtype=torch.float64)
    with pytest.warns(UserWarning, match="without torch.compile"):
        ours = flex_attention(query, key, value, block_mask=block_mask(batch))
    mask = torch.where(visibility(batch), 0.0, -torch.inf).double()[:, None]
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    real = (batch.example_ids >= 0)[0]
    assert (ours - expected)[:, :, real].abs().max() < 1e-12


def test_a_block_mask_needs_whole_blocks():
    with pytest.raises(ValueError, match="multiple of 128"):
        block_mask(collate([ragged(2, longest=5)], "packed"))


@pytest.mark.gpu
def test_flex_attention_on_a_gpu_equals_the_dense_mask_with_gradients(lm_factory):
    lm = lm_factory("llama", hidden_size=64, head_dim=16).cuda()
    dense, flex = Backbone(lm), Backbone(copy.deepcopy(lm)).use_attention("auto", "cuda")
    assert flex.attention == "flex"
    batch = collate([ragged(6, longest=20)], "packed", BLOCK)
    for name in ("input_ids", "position_ids", "example_ids", "branch_ids"):
        setattr(batch, name, getattr(batch, name).cuda())
    expected, expected_gradients = states_and_gradients(dense, batch)
    hidden, gradients = states_and_gradients(flex, batch)
    assert (hidden - expected).abs().max() < 1e-3
    for name, gradient in expected_gradients.items():
        assert (gradients[name] - gradient).abs().max() <= 1e-2 * max(1.0, float(gradient.abs().max())), name
