"""Who sees whom, against the definition in words, and against every way in which a mask goes silently wrong."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoConfig

from alignkit.batches import PackedBatch
from alignkit.data.collate import collate, micro_batches
from alignkit.data.examples import EncodedExample
from alignkit.data.packing import Packing
from alignkit.models.attention import additive_mask, visibility, why_not_packed
from alignkit.models.backbone import Backbone

IDS = st.lists(st.integers(3, 9), min_size=1, max_size=4).map(tuple)
EXAMPLES = st.lists(st.tuples(IDS, st.lists(IDS, min_size=1, max_size=3).map(tuple)), min_size=1, max_size=5)


def encoded(parts: list[tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]]) -> list[EncodedExample]:
    return [EncodedExample(key=n, prompt_ids=prompt, completion_ids=sides) for n, (prompt, sides) in enumerate(parts)]


def sees(batch: PackedBatch, row: int, query: int, key: int) -> bool:
    """The definition: same example, not later in the row, in the prompt or in the same completion; padding sees itself."""
    if query == key:
        return True
    owner, branch = batch.example_ids[row].tolist(), batch.branch_ids[row].tolist()
    return owner[query] == owner[key] >= 0 and key < query and branch[key] in (0, branch[query])


@pytest.mark.parametrize("layout", ["packed", "rows"])
@settings(derandomize=True, deadline=None, max_examples=40)
@given(parts=EXAMPLES)
def test_visibility_is_its_definition(layout, parts):
    for batch in micro_batches(encoded(parts), Packing(layout=layout, tokens=60, row_tokens=20)):
        rows, tokens = batch.input_ids.shape
        expected = [[[sees(batch, r, q, k) for k in range(tokens)] for q in range(tokens)] for r in range(rows)]
        assert visibility(batch).tolist() == expected


def test_visibility_of_the_worked_example():
    # p0 p1 a0 a1 b0: b0 sees both prompt tokens and itself, and neither a0 nor a1
    batch = collate([encoded([((3, 4), ((5, 6), (7,)))])], "packed")
    assert visibility(batch)[0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_mask_is_added_to_scores_in_the_models_dtype_and_never_boolean(dtype, examples_factory):
    batch = collate([examples_factory(2), examples_factory(1)], "packed")
    mask = additive_mask(batch, dtype)
    rows, tokens = batch.input_ids.shape
    assert mask.shape == (rows, 1, tokens, tokens)
    assert mask.dtype == dtype
    assert torch.equal(mask[:, 0] == 0, visibility(batch))
    # finite, so that nothing becomes NaN, and so low that a softmax gives exactly 0
    assert mask.isfinite().all()
    weights = (torch.randn(mask.shape).to(dtype) * 10 + mask).softmax(-1)
    assert torch.equal(weights == 0, ~visibility(batch)[:, None])
    assert torch.allclose(weights.float().sum(-1), torch.ones(rows, 1, tokens), atol=0.02)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_rows_of_padding_are_finite_and_change_nothing(attention, architecture, lm_factory, examples_factory):
    lm = lm_factory(architecture)
    lm.set_attn_implementation(attention)
    backbone = Backbone(lm)
    long, short = examples_factory(2, shortest=8)[0], examples_factory(1, longest=2)[0]
    padded, alone = collate([[long], [short]], "packed"), collate([[short]], "packed")
    hidden = backbone.hidden_states(padded)
    assert (padded.example_ids < 0).sum() > 5
    assert hidden.isfinite().all()
    assert torch.allclose(hidden[padded.terminal_index[2:]], backbone.hidden_states(alone)[alone.terminal_index], atol=1e-5)


def test_eager_and_fused_attention_agree(architecture, lm_factory, examples_factory):
    # A boolean mask is right under SDPA and silently wrong under eager attention.
    batch = collate([examples_factory(3), examples_factory(2)], "packed")
    outputs = []
    for attention in ("eager", "sdpa"):
        lm = lm_factory(architecture)
        lm.set_attn_implementation(attention)
        outputs.append(Backbone(lm).hidden_states(batch)[(batch.example_ids >= 0).flatten()])
    assert torch.allclose(*outputs, atol=1e-4)


class Decoder(nn.Module):
    def forward(self, input_ids, attention_mask=None, position_ids=None, use_cache=False):
        raise NotImplementedError


class Recurrent(nn.Module):
    def forward(self, input_ids, use_cache=False):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("mistral", {"sliding_window": 16}, "sliding window of 16 tokens"),
        ("qwen2", {"layer_types": ["full_attention", "sliding_attention"], "num_hidden_layers": 2}, "of kind sliding_attention"),
        ("bloom", {}, "ALiBi"),
        ("falcon", {"alibi": True}, "ALiBi"),
    ],
)
def test_models_that_a_packed_mask_would_change_are_laid_out_in_rows(kind, changes, reason):
    assert reason in (why_not_packed(Decoder(), AutoConfig.for_model(kind, **changes)) or "")


def test_a_decoder_that_takes_no_mask_or_positions_is_laid_out_in_rows():
    assert why_not_packed(Recurrent(), AutoConfig.for_model("gpt2")) == "it does not take position_ids and attention_mask"


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("gpt2", {}), ("mistral", {"sliding_window": None}), ("qwen2", {"sliding_window": 16, "use_sliding_window": False})],
)
def test_models_with_full_attention_are_packed(kind, changes):
    assert why_not_packed(Decoder(), AutoConfig.for_model(kind, **changes)) is None
