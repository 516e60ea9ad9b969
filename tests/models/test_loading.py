"""What a user sees whose model cannot be used: one message that names the setting, before or instead of a traceback."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, GPT2Config, T5Config

from alignkit.errors import UserError
from alignkit.models.loading import (
    check_fit,
    check_quantization,
    load_config,
    load_lm,
    load_quantized_lm,
    load_tokenizer,
)


@pytest.fixture
def folder(lm_factory, tokenizer_factory, tmp_path) -> Path:
    """A tiny model as a Hugging Face folder."""
    path = tmp_path / "gpt2"
    lm_factory("gpt2").save_pretrained(path)
    tokenizer_factory().save_pretrained(path)
    return path


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    # the cause is told in the message; a traceback of the library would say it again
    assert caught.value.__cause__ is None
    return str(caught.value)


def test_a_folder_loads_with_all_its_weights_in_the_asked_type(folder, lm_factory):
    path = str(folder)
    assert load_config("model.path", path).model_type == "gpt2"
    lm = load_lm("model.path", path, torch.bfloat16)
    assert lm.dtype == torch.bfloat16
    expected = lm_factory("gpt2", dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in lm.state_dict().items())
    assert load_tokenizer("model.path", path).eos_token_id == 2


def test_a_broken_config_is_refused(folder):
    (folder / "config.json").write_text('{"model_type": "no_such_architecture"}')
    assert "model.path" in refusal(lambda: load_config("model.path", str(folder)))
    (folder / "config.json").write_text("{")
    assert "model.path" in refusal(lambda: load_config("model.path", str(folder)))


def test_an_encoder_decoder_is_refused_before_its_weights_are_looked_for(tmp_path):
    T5Config(d_model=8, num_layers=1, num_heads=1).save_pretrained(tmp_path)
    message = refusal(lambda: load_config("model.path", str(tmp_path)))
    assert "encoder-decoder" in message
    assert "causal language model" in message


def test_quantised_weights_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq", "bits": 4}}))
    assert "unquantised" in refusal(lambda: load_config("model.path", str(folder)))


def test_a_missing_tensor_is_named_instead_of_being_random(folder):
    weights = load_file(folder / "model.safetensors")
    (name,) = [name for name in weights if name.endswith("h.1.mlp.c_fc.weight")]
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = refusal(lambda: load_lm("model.path", str(folder), torch.float32))
    assert f"model.path = {str(folder)!r}: 1 weights are missing" in message
    assert "h.1.mlp.c_fc.weight" in message


def test_a_folder_without_weights_is_refused(folder):
    (folder / "model.safetensors").unlink()
    assert "weights cannot be loaded" in refusal(lambda: load_lm("model.path", str(folder), torch.float32))


def test_weights_of_another_shape_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "n_embd": 64}))
    assert "weights cannot be loaded" in refusal(lambda: load_lm("model.path", str(folder), torch.float32))


def test_a_truncated_weight_file_is_refused(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "weights cannot be loaded" in refusal(lambda: load_lm("model.path", str(folder), torch.float32))


def test_a_folder_without_a_tokenizer_is_refused(architecture, lm_factory, tmp_path):
    # transformers makes up an empty tokenizer for some of these
    lm_factory(architecture).save_pretrained(tmp_path)
    assert "no tokenizer" in refusal(lambda: load_tokenizer("model.path", str(tmp_path)))


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "GPTNeoXTokenizer", "Qwen2Tokenizer"])
def test_a_tokenizer_without_its_vocabulary_is_refused(name, folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    assert "no tokenizer" in refusal(lambda: load_tokenizer("model.path", str(folder)))


def test_a_tokenizer_larger_than_the_embeddings_is_refused_with_both_numbers(tokenizer_factory):
    config = GPT2Config(vocab_size=97, n_positions=128)
    check_fit("model.path", config, tokenizer_factory(97), 128)
    message = refusal(lambda: check_fit("model.path", config, tokenizer_factory(98), 128))
    assert "the tokenizer has 98 tokens, the model embeddings for 97" in message


def test_a_length_beyond_the_context_is_refused_with_what_to_type(tokenizer_factory):
    config = AutoConfig.for_model("gpt2", vocab_size=97, n_positions=128)
    message = refusal(lambda: check_fit("model.path", config, tokenizer_factory(), 129))
    assert message.startswith("dataset.max_length = 129")
    assert "Type dataset.max_length=128" in message


@pytest.mark.parametrize("case", ["encoder-decoder", "missing weights"])
def test_a_refusal_says_what_to_type(case, folder):
    if case == "encoder-decoder":
        shutil.rmtree(folder)
        T5Config().save_pretrained(folder)
        message = refusal(lambda: load_config("model.path", str(folder)))
    else:
        save_file({"x": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
        message = refusal(lambda: load_lm("model.path", str(folder), torch.float32))
    assert "model.path=" in message or "model=" in message


def test_four_bits_are_refused_where_there_is_no_device_or_no_library(monkeypatch, folder):
    message = refusal(lambda: check_quantization("cpu"))
    assert message == "model.quantize = 'nf4' on cpu: bitsandbytes needs a CUDA device for it. Type model.quantize=null."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "CUDA device" in refusal(lambda: check_quantization("cuda"))
    assert "CUDA device" in refusal(lambda: load_quantized_lm("model.path", str(folder), torch.float32, torch.bfloat16))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = refusal(lambda: check_quantization("cuda"))
    assert message.startswith("model.quantize = 'nf4': bitsandbytes is not installed. Type pip install bitsandbytes")
