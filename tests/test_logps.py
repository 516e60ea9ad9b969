"""Chunked log-probs against the plain softmax, and memory that does not follow the vocabulary."""

from __future__ import annotations

import pytest
import torch

from alignkit import logps
from alignkit.logps import completion_lengths, completion_sums, token_scores


@pytest.mark.parametrize("chunk", [1, 7, 50, 10**9])
@pytest.mark.parametrize("with_bias", [False, True])
def test_chunks_equal_the_plain_log_softmax_forward_and_backward(chunk, with_bias, monkeypatch):
    monkeypatch.setattr(logps, "CHUNK_ELEMENTS", chunk)
    torch.manual_seed(0)
    hidden = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True) if with_bias else None
    targets = torch.randint(0, 7, (11,))
    leaves = [leaf for leaf in (hidden, weight, bias) if leaf is not None]
    plain = torch.nn.functional.linear(hidden, weight, bias).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    ours = token_scores(hidden, weight, bias, targets).logps
    assert torch.allclose(ours, plain, atol=1e-12)
    mix = torch.randn(11, dtype=torch.float64)
    for got, expected in zip(
        torch.autograd.grad((ours * mix).sum(), leaves), torch.autograd.grad((plain * mix).sum(), leaves), strict=True
    ):
        assert torch.allclose(got, expected, atol=1e-12)


def test_gradcheck_in_float64():
    hidden = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 5, 2, 2])
    assert torch.autograd.gradcheck(lambda h, w: token_scores(h, w, None, targets).logps, (hidden, weight))


def test_values_by_hand():
    # rows (0.5, 0.5, 0.5) -> -ln 3 and (1, 3, 0) at 2 -> 0 - ln(e + e^3 + 1)
    hidden = torch.tensor([[0.5, 0.5, 0.5], [1.0, 3.0, 0.0]], dtype=torch.float64)
    scores = token_scores(hidden, torch.eye(3, dtype=torch.float64), None, torch.tensor([1, 2])).logps
    assert scores.tolist() == pytest.approx([-1.0986122887, -3.1698460196], abs=1e-9)


def test_top1_marks_the_models_first_choice():
    scores = token_scores(torch.eye(3), torch.eye(3), None, torch.tensor([0, 0, 2]))
    assert scores.top1.tolist() == [True, False, True]


def test_no_logits_matrix_of_the_whole_batch_exists(monkeypatch):
    monkeypatch.setattr(logps, "CHUNK_ELEMENTS", 4 * 50)
    largest = 0
    original = torch.nn.functional.linear

    def spy(*args):
        nonlocal largest
        output = original(*args)
        largest = max(largest, output.numel())
        return output

    monkeypatch.setattr(logps.F, "linear", spy)
    hidden = torch.randn(64, 8, requires_grad=True)
    weight = torch.randn(50, 8, requires_grad=True)
    token_scores(hidden, weight, None, torch.randint(0, 50, (64,))).logps.sum().backward()
    assert largest == 4 * 50


def test_bf16_inputs_give_float32_log_probs_and_gradients_summed_in_float32(monkeypatch):
    # 512 chunks that each add 1/256 of the total: summed in bf16 the later ones would be rounded away.
    monkeypatch.setattr(logps, "CHUNK_ELEMENTS", 4)
    hidden = torch.ones(512, 4, dtype=torch.bfloat16)
    weight = torch.zeros(4, 4, dtype=torch.bfloat16, requires_grad=True)
    scores = token_scores(hidden, weight, None, torch.zeros(512, dtype=torch.int64)).logps
    assert scores.dtype == torch.float32
    scores.sum().backward()
    # d/dw of 512 * log softmax at uniform: 512 * (1 - 1/4) for the target row, -512 / 4 for the others.
    assert weight.grad is not None
    assert weight.grad[:, 0].tolist() == [384.0, -128.0, -128.0, -128.0]


def test_sums_and_lengths_by_completion():
    index = torch.tensor([0, 0, 2, 0])
    assert completion_sums(torch.tensor([1.0, 2.0, 4.0, 8.0]), index, 3).tolist() == [11.0, 0.0, 4.0]
    assert completion_lengths(index, 3).tolist() == [3, 0, 1]
