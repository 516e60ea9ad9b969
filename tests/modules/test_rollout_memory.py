"""No tensor of an update, from its samples to its last epoch, is as large as samples x tokens x vocabulary."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY, WIDTH = 20_000, 4
PROMPTS, SAMPLES, TOKENS = 3, 4, 8


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes, forward or backward."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // max(1, tensor.element_size()))
        return made


def wide_lm() -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model("gpt2", vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=1, n_head=1, n_positions=64, eos_token_id=2)
    return AutoModelForCausalLM.from_config(config)


@pytest.fixture
def largest(sampled_loss, rollout_module, examples_factory, fit_samples, tokenizer_factory):
    """Elements of the largest tensor of an update with everything that reads the vocabulary."""

    def measure(chunk: int, monkeypatch: pytest.MonkeyPatch) -> int:
        monkeypatch.setattr("alignkit.vocabulary.CHUNK_ELEMENTS", chunk)
        loss = sampled_loss("ppo", epochs=2, minibatches=1, entropy_coefficient=0.01, ptx_coefficient=0.1)
        options = {"samples": SAMPLES, "max_tokens": TOKENS, "reuse": 1, "tokenizer": tokenizer_factory(VOCABULARY)}
        module = rollout_module(loss, wide_lm(), steps=2, **options)
        with Largest() as mode:
            fit_samples(module, examples_factory(2 * PROMPTS, completions=1), pairs=PROMPTS)
        return mode.elements

    return measure


def test_the_vocabulary_meets_a_chunk_of_tokens_at_a_time(largest, monkeypatch):
    elements = largest(2 * VOCABULARY, monkeypatch)
    assert elements == WIDTH * VOCABULARY, "the embedding itself is the largest tensor"
    assert elements < PROMPTS * SAMPLES * TOKENS * VOCABULARY / 20


def test_without_chunks_it_would_meet_them_all(largest, monkeypatch):
    assert largest(10**12, monkeypatch) > 0.5 * PROMPTS * SAMPLES * TOKENS * VOCABULARY
