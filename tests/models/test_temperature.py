"""A temperature divides the logits wherever a backbone is asked."""

from __future__ import annotations

import pytest
import torch

from alignkit.data.collate import micro_batches
from alignkit.data.packing import Packing
from alignkit.models.backbone import Backbone


@pytest.fixture(params=["gpt2", "llama"])
def with_bias(request, lm_factory) -> Backbone:
    """Models whose output embedding has a bias, as some have (GPT-J, Phi)."""
    lm = lm_factory(request.param, dtype=torch.float64)
    lm.get_output_embeddings().bias = torch.nn.Parameter(torch.linspace(-1, 1, 97, dtype=torch.float64))
    return Backbone(lm)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_log_probs_and_entropies_are_those_of_the_divided_logits(temperature, with_bias, examples_factory):
    (batch,) = micro_batches(examples_factory(3), Packing(layout="rows", tokens=1000))
    with torch.no_grad():
        hidden = with_bias.hidden_states(batch)
        logits = with_bias.next_token_logits(hidden[batch.predictor_index])
        whole = with_bias.lm(batch.input_ids, attention_mask=(batch.example_ids >= 0).long()).logits.flatten(0, 1)
        expected = (logits / temperature).log_softmax(-1)
        scores = with_bias.token_scores(hidden, batch, temperature=temperature)
        entropies = with_bias.token_entropies(hidden, batch, temperature=temperature)
    assert torch.allclose(logits, whole[batch.predictor_index], atol=1e-10)
    assert torch.allclose(scores.logps, expected.gather(-1, batch.target_ids[:, None])[:, 0], atol=1e-10)
    assert torch.equal(scores.top1, expected.argmax(-1) == batch.target_ids)
    assert torch.allclose(entropies, -(expected.exp() * expected).sum(-1), atol=1e-10)


def test_its_gradient_reaches_hidden_states_embedding_and_bias(with_bias, examples_factory):
    (batch,) = micro_batches(examples_factory(2), Packing(layout="rows", tokens=1000))
    head = with_bias.lm.get_output_embeddings()
    hidden = with_bias.hidden_states(batch).detach().requires_grad_()
    leaves = (hidden, head.weight, head.bias)
    ours = torch.autograd.grad(with_bias.token_scores(hidden, batch, temperature=0.7).logps.sum(), leaves)
    logits = with_bias.next_token_logits(hidden.index_select(0, batch.predictor_index)) / 0.7
    plain = torch.autograd.grad(logits.log_softmax(-1).gather(-1, batch.target_ids[:, None]).sum(), leaves)
    for got, expected in zip(ours, plain, strict=True):
        assert torch.allclose(got, expected, atol=1e-10)
