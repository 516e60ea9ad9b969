"""Mixtures and attention against sums written out.   C completions   N completion tokens   L layers   D hidden width"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from alignkit.models.readers import LayerMixture, TokenAttention, softmax_by_completion

WIDTH = 6
OWNERS = torch.tensor([0, 0, 0, 1, 2, 2])
LAST = torch.tensor([2, 3, 5])


def build_attention() -> TokenAttention:
    torch.manual_seed(0)
    attention = TokenAttention(WIDTH, std=0.5)
    nn.init.normal_(attention.value.weight)
    return attention.double()


def random_tokens() -> tuple[Tensor, Tensor]:
    """[N, D] states of the tokens of three completions, and those [C, D] of their last ones."""
    tokens = torch.randn(6, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return tokens, tokens[LAST]


def test_a_fresh_mixture_is_the_mean_of_its_layers():
    states = torch.randn(5, 3, WIDTH, dtype=torch.float64)
    assert torch.allclose(LayerMixture(3)(states), states.mean(1), atol=1e-12)


def test_a_mixture_by_hand():
    mixture = LayerMixture(2).double()
    mixture.weights.data.copy_(torch.tensor([math.log(3), 0.0]))  # shares 3/4 and 1/4
    assert mixture(torch.tensor([[[4.0, 0.0], [0.0, 8.0]]], dtype=torch.float64))[0].tolist() == pytest.approx([3.0, 2.0])


def test_a_mixture_leans_towards_the_layer_that_helps():
    mixture = LayerMixture(2).double()
    mixture(torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64)).sum().backward()
    # d/dw of softmax at 1/2: 1/4 * (1 - -1)
    assert mixture.weights.grad.tolist() == pytest.approx([0.5, -0.5])


def test_gradients_of_a_mixture_are_derivatives():
    mixture = LayerMixture(3).double()
    nn.init.normal_(mixture.weights)
    states = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(mixture, (states,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_mixture_is_summed_in_float32_and_keeps_the_type(dtype):
    # 256 + 1 + 1 is 256 if each sum is rounded to bf16, and 258 if only the last one is
    states = torch.tensor([[[256.0], [1.0], [1.0], [0.0]]], dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = LayerMixture(4).to(dtype)(4 * states)
    assert mixed.dtype == dtype
    assert mixed.item() == 258.0


def test_attention_by_hand():
    attention = build_attention()
    tokens, terminal = random_tokens()
    query, value = attention.query.weight, attention.value.weight
    for completion, own in enumerate((tokens[:3], tokens[3:4], tokens[4:])):
        weights = torch.stack([(query @ terminal[completion]) @ token / math.sqrt(WIDTH) for token in own]).exp()
        expected = terminal[completion] + value @ sum(w / weights.sum() * token for w, token in zip(weights, own, strict=True))
        assert torch.allclose(attention(terminal, tokens, OWNERS)[completion], expected, atol=1e-12)


def test_it_is_torchs_own_attention_of_a_padded_batch():
    attention = build_attention()
    tokens, terminal = random_tokens()
    padded = torch.zeros(3, 3, WIDTH, dtype=torch.float64)
    mask = torch.zeros(3, 1, 3, dtype=torch.bool)
    for completion, own in enumerate((tokens[:3], tokens[3:4], tokens[4:])):
        padded[completion, : len(own)] = own
        mask[completion, :, : len(own)] = True
    pooled = nn.functional.scaled_dot_product_attention(attention.query(terminal)[:, None], padded, padded, attn_mask=mask)[:, 0]
    assert torch.allclose(attention(terminal, tokens, OWNERS), terminal + attention.value(pooled), atol=1e-12)


def test_fresh_attention_returns_the_last_tokens_state_to_the_bit():
    torch.manual_seed(0)
    tokens, terminal = random_tokens()
    fresh = TokenAttention(WIDTH, std=0.5).double()
    assert torch.equal(fresh(terminal, tokens, OWNERS), terminal)
    fresh(terminal, tokens, OWNERS).sum().backward()
    assert fresh.value.weight.grad.abs().max() > 0  # and can leave it


def test_a_completion_sees_its_own_tokens_alone_and_in_any_order():
    attention = build_attention()
    tokens, terminal = random_tokens()
    read = attention(terminal, tokens, OWNERS)
    changed = tokens.clone()
    changed[:2] = 5
    assert torch.equal(attention(terminal, changed, OWNERS)[1:], read[1:])
    assert not torch.allclose(attention(terminal, changed, OWNERS)[0], read[0])
    shuffled = torch.tensor([1, 2, 0, 3, 5, 4])
    assert torch.allclose(attention(terminal, tokens[shuffled], OWNERS), read, atol=1e-12)


def test_gradients_of_attention_are_derivatives():
    attention = build_attention()
    tokens, terminal = random_tokens()
    leaves = terminal.clone().requires_grad_(), tokens.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda terminal, tokens: attention(terminal, tokens, OWNERS), leaves)


def test_weights_of_attention_start_normal_and_at_zero():
    torch.manual_seed(0)
    attention = TokenAttention(100, std=0.02)
    assert attention.query.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert attention.value.weight.abs().max() == 0
    assert {name: tuple(weight.shape) for name, weight in attention.state_dict().items()} == {
        "query.weight": (100, 100),
        "value.weight": (100, 100),
    }


def test_attention_in_bf16_stays_near():
    exact = build_attention()
    tokens, terminal = random_tokens()
    expected = exact(terminal, tokens, OWNERS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = exact.float()(terminal.float(), tokens.float(), OWNERS)
    pure = exact.bfloat16()(terminal.bfloat16(), tokens.bfloat16(), OWNERS)
    assert (mixed.dtype, pure.dtype) == (torch.float32, torch.bfloat16)
    for read in (mixed, pure):
        assert torch.allclose(read.double(), expected, atol=0.1)


def test_shares_sum_to_one_over_each_completion_however_large_the_scores():
    scores = torch.tensor([1e4, 0.0, -1e4, -1e4, 3.0, 3.0], requires_grad=True)
    shares = softmax_by_completion(scores, OWNERS, 3)
    assert shares.tolist() == [1.0, 0.0, 0.0, 1.0, 0.5, 0.5]
    (gradient,) = torch.autograd.grad(shares[4], scores)
    assert gradient.tolist() == [0.0, 0.0, 0.0, 0.0, 0.25, -0.25]


def test_shares_are_softmax_of_each_completion():
    scores = torch.randn(6, dtype=torch.float64, requires_grad=True)
    expected = torch.cat([part.softmax(0) for part in scores.split([3, 1, 2])])
    assert torch.allclose(softmax_by_completion(scores, OWNERS, 3), expected, atol=1e-12)
    assert torch.autograd.gradcheck(lambda scores: softmax_by_completion(scores, OWNERS, 3), (scores,))
