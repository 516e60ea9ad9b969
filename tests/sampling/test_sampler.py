"""What the next token is drawn from, and how it is drawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from alignkit.sampling.sampler import Distribution, draw


def logits(rows: int = 20, dtype: torch.dtype = torch.float32) -> Tensor:
    return 3 * torch.randn(rows, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def test_a_temperature_divides_logits():
    expected = (logits() / 0.7).log_softmax(-1)
    assert torch.allclose(Distribution(temperature=0.7).log_probs(logits()), expected, atol=1e-6)
    # 1/2 and 1/4, 1/4 at temperature 1; squared at 1/2: 2/3, 1/6, 1/6
    halves = torch.tensor([[2.0, 1.0, 1.0]]).log()
    assert Distribution(temperature=0.5).log_probs(halves).exp().tolist()[0] == pytest.approx([2 / 3, 1 / 6, 1 / 6])


@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (1, 1.0), (50, 1.0), (0, 0.8), (0, 0.05), (7, 0.6), (30, 0.95), (80, 0.5)])
def test_cuts_are_those_of_transformers(top_k, top_p):
    expected = TemperatureLogitsWarper(0.9)(None, logits())
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    ours = Distribution(temperature=0.9, top_k=top_k, top_p=top_p).log_probs(logits())
    assert torch.equal(ours.isinf(), expected.isinf())
    assert torch.allclose(ours.exp(), expected.softmax(-1), atol=1e-6)
    assert torch.allclose(ours.exp().sum(-1), torch.ones(20))


def test_of_several_tokens_that_are_equally_likely_k_stay():
    ours = Distribution(top_k=2).log_probs(torch.zeros(1, 5))
    assert sorted(ours[0].exp().tolist()) == pytest.approx([0, 0, 0, 0.5, 0.5])


def test_only_an_uncut_distribution_is_whole():
    assert Distribution(temperature=0.3).is_whole
    assert not Distribution(top_k=3).is_whole
    assert not Distribution(top_p=0.9).is_whole


@pytest.mark.parametrize(
    ("given", "got"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)]
)
def test_log_probs_are_float32_at_least(given, got):
    assert Distribution().log_probs(logits(dtype=given)).dtype == got
    assert Distribution(top_k=3).log_probs(logits(dtype=given)).dtype == got


def drawn(probabilities: list[float], *uniforms: float) -> list[int]:
    rows = torch.tensor([probabilities], dtype=torch.float64).log().expand(len(uniforms), -1)
    return draw(rows, torch.tensor(uniforms, dtype=torch.float64)).tolist()


def test_a_number_draws_the_token_whose_part_of_the_unit_interval_it_is_in():
    below = math.nextafter(0.5, 0)
    assert drawn([0.25, 0.25, 0.5], 0.0, 0.2, 0.25, below, 0.5, 0.9) == [0, 0, 1, 1, 2, 2]


def test_tokens_without_probability_are_never_drawn_at_the_edges():
    last = math.nextafter(1.0, 0.0)
    assert drawn([0.0, 0.5, 0.0, 0.5, 0.0, 0.0], 0.0, 0.5, last) == [1, 3, 3]


def test_rounding_of_the_sum_draws_no_token_that_is_not_there():
    # float32 log-probs of many tokens do not add up to 1
    last = math.nextafter(1.0, 0.0)
    for seed in range(20):
        rows = torch.randn(1, 5000, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
        rows[:, 4000:] = float("-inf")
        assert draw(rows, torch.tensor([last], dtype=torch.float64)).item() == 3999
        assert draw(rows, torch.tensor([0.0], dtype=torch.float64)).item() == 0


def test_each_row_has_a_number_of_its_own():
    rows = torch.full((4, 4), 0.25, dtype=torch.float64).log()
    assert draw(rows, torch.tensor([0.9, 0.1, 0.6, 0.3], dtype=torch.float64)).tolist() == [3, 0, 2, 1]
