"""Models that transformers loads without a word and that cannot be trained."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, LlamaConfig

from alignkit.errors import UserError
from alignkit.models.soundness import check_architecture, check_finite, check_layers_complete, check_same_tokens


def test_an_encoder_is_refused_which_transformers_would_give_a_random_head() -> None:
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=16)
    assert AutoModelForCausalLM.from_config(config) is not None
    with pytest.raises(UserError, match="a bert that fills gaps in a text and writes none: is_decoder is false"):
        check_architecture("model.path", "m", config)
    config.is_decoder = True
    check_architecture("model.path", "m", config)


@pytest.mark.parametrize("layers", [0, -1, 1001])
def test_numbers_of_layers_that_no_model_has_are_refused(layers: int) -> None:
    check_architecture("model.path", "m", LlamaConfig(num_hidden_layers=1000))
    with pytest.raises(UserError, match="num_hidden_layers = "):
        check_architecture("model.path", "m", LlamaConfig(num_hidden_layers=layers))


def test_layers_beyond_the_configuration_are_named_and_other_tensors_left_out() -> None:
    config = LlamaConfig(num_hidden_layers=2)
    check_layers_complete("model.path", "m", config, ["model.layers.1.self_attn.rotary.inv_freq", "vision.weight"])
    with pytest.raises(UserError, match=r"weights hold more, e.g. model.layers.2.mlp.experts.0.weight"):
        check_layers_complete("model.path", "m", config, ["model.layers.2.mlp.experts.0.weight"])
    check_layers_complete("model.path", "m", config, ["model.layers.1.mlp.experts.9.weight"])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_broken_number_is_found_and_its_tensor_named(lm_factory, dtype: torch.dtype, value: float) -> None:
    lm = lm_factory("gpt2", dtype=dtype)
    check_finite("model.path", "m", lm)
    name, weight = list(lm.named_parameters())[-1]
    with torch.no_grad():
        weight.view(-1)[-1] = value
    with pytest.raises(UserError, match=f"model.path = 'm': {name} holds NaN or infinity"):
        check_finite("model.path", "m", lm)


def test_a_reference_may_know_more_words_but_none_by_another_number(tokenizer_factory) -> None:
    ours, more = tokenizer_factory(), tokenizer_factory()
    more.add_tokens(["more"])
    check_same_tokens(ours, more, "r")
    with pytest.raises(UserError, match=rf"1 of {len(more)} tokens have other ids, such as 'more'"):
        check_same_tokens(more, ours, "r")
