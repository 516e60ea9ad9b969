"""A peft adapter as a model: merged into its base model, which must be there and fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from alignkit.data.collate import collate
from alignkit.errors import UserError
from alignkit.model_settings import UNUSED_LORA
from alignkit.models.adapters import adapter_layers, add_adapters
from alignkit.models.backbone import Backbone
from alignkit.models.loading import base_of, load_config, load_lm, load_quantized_lm, load_tokenizer
from alignkit.models.reference import AdapterOffReference, backbone_logps, fingerprint, trunk_fingerprint

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft's own, of transformers


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    return str(caught.value)


TARGETS = {"gpt2": ["c_attn", "c_proj"], "llama": ["q_proj", "up_proj"], "opt": ["v_proj", "fc1"]}


@pytest.fixture
def adapter(lm_factory, tokenizer_factory, tmp_path) -> Callable[..., tuple[Path, Path]]:
    """A base model and a peft adapter that fits it, as peft saves it: two folders."""

    def build(name: str = "llama", dtype: torch.dtype = torch.float32, base: Path | None = None, **changes: object) -> tuple[Path, Path]:
        base = base or tmp_path / f"{name}-base"
        lm_factory(name, dtype=dtype).save_pretrained(base)
        tokenizer_factory().save_pretrained(base)
        torch.manual_seed(5)
        config = {"r": 4, "lora_alpha": 6, "target_modules": TARGETS[name], "fan_in_fan_out": name == "gpt2", "task_type": "CAUSAL_LM"}
        peft_model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**{**config, **changes}))
        with torch.no_grad():
            for parameter in peft_model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(std=0.2)
        peft_model.save_pretrained(tmp_path / f"{name}-adapter")
        return base, tmp_path / f"{name}-adapter"

    return build


@pytest.mark.parametrize("name", TARGETS)
def test_an_adapter_is_merged_into_its_base_model_weight_by_weight(name, adapter):
    """W + 6/4 B A, computed from the two files in float64."""
    base, path = adapter(name)
    lm = load_lm("model.path", str(path), torch.float32)
    assert load_config("model.path", str(path)).model_type == name
    assert type(lm) is type(load_lm("model.path", str(base), torch.float32))
    plain = load_lm("model.path", str(base), torch.float32).state_dict()
    parts = load_file(path / "adapter_model.safetensors")
    merged = lm.state_dict()
    assert merged.keys() == plain.keys()
    changed = {key.removeprefix("base_model.model.").removesuffix(".lora_A.weight") for key in parts if "lora_A" in key}
    assert len(changed) >= 4
    for key, weight in plain.items():
        expected = weight.double()
        if (layer := key.removesuffix(".weight")) in changed:
            down, up = (parts[f"base_model.model.{layer}.lora_{part}.weight"].double() for part in "AB")
            expected = expected + 1.5 * ((up @ down).T if name == "gpt2" else up @ down)
            assert not torch.equal(merged[key], weight)
        assert (merged[key].double() - expected).abs().max() < 1e-6, key


def test_a_merged_adapter_is_rounded_after_the_sum_and_leaves_buffers_as_they_are_loaded(adapter):
    base, path = adapter(dtype=torch.bfloat16)
    lm = load_lm("model.path", str(path), torch.bfloat16)
    plain = load_lm("model.path", str(base), torch.bfloat16)
    wide = load_lm("model.path", str(path), torch.float32)
    assert lm.dtype == torch.bfloat16
    assert {name: buffer.dtype for name, buffer in lm.named_buffers()} == {name: buffer.dtype for name, buffer in plain.named_buffers()}
    assert all(torch.equal(tensor, wide.state_dict()[name].to(tensor.dtype)) for name, tensor in lm.state_dict().items())


def test_adapters_on_a_model_that_was_tuned_with_adapters_have_the_tuned_model_as_their_reference(adapter, examples_factory):
    base, path = adapter()
    policy = Backbone(load_lm("model.path", str(path), torch.float32))
    start = fingerprint(policy)
    batch = collate([examples_factory(4)], "packed")
    tuned = backbone_logps(policy, batch)
    add_adapters(policy, UNUSED_LORA)
    with torch.no_grad():
        for layer in adapter_layers(policy.lm).values():
            layer.lora_B["default"].weight.normal_()
    assert torch.equal(AdapterOffReference(policy).token_logps(batch), tuned)
    plain = Backbone(load_lm("model.path", str(base), torch.float32))
    assert (backbone_logps(plain, batch) - tuned).abs().max() > 1e-2
    assert trunk_fingerprint(policy) == start != fingerprint(plain)


def test_a_tokenizer_comes_with_the_adapter_or_with_its_base_model(adapter, tokenizer_factory):
    base, path = adapter()
    assert len(load_tokenizer("model.path", str(path))) == 97
    tokenizer_factory(90).save_pretrained(path)
    assert len(load_tokenizer("model.path", str(path))) == 90
    assert base_of("model.path", str(path)) == str(base)
    assert base_of("model.path", str(base)) is None


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("named", ["/no/such/folder", "no_such_folder/at/all", None, "", 3])
def test_an_adapter_whose_base_model_is_not_there_is_refused_with_the_file_that_names_it(named, adapter):
    _, path = adapter()
    edit(path / "adapter_config.json", base_model_name_or_path=named)
    for load in (load_config, load_tokenizer, lambda where, path: load_lm(where, path, torch.float32)):
        message = refusal(lambda load=load: load("model.path", str(path)))
        assert message.startswith(f"model.path = {str(path)!r}: an adapter ")
        assert str(path / "adapter_config.json") in message


def test_an_adapter_that_fits_another_model_is_refused(adapter, lm_factory):
    base, path = adapter()
    lm_factory("llama", num_hidden_layers=1).save_pretrained(base)
    message = refusal(lambda: load_lm("model.path", str(path), torch.float32))
    assert f"the adapter cannot be merged into its base model {str(base)!r} (ValueError: 4 of its weights do not fit" in message
    assert "layers.1" in message
    lm_factory("llama", num_hidden_layers=3).save_pretrained(base)
    assert "of its weights do not fit" in refusal(lambda: load_lm("model.path", str(path), torch.float32))
    lm_factory("llama", intermediate_size=64).save_pretrained(base)
    assert "cannot be merged" in refusal(lambda: load_lm("model.path", str(path), torch.float32))
    lm_factory("gpt2").save_pretrained(base)
    assert "cannot be merged" in refusal(lambda: load_lm("model.path", str(path), torch.float32))


def test_broken_adapter_folders_are_refused(adapter, lm_factory):
    _, path = adapter()
    whole, config = (path / "adapter_model.safetensors").read_bytes(), (path / "adapter_config.json").read_text()
    (path / "adapter_model.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "cannot be merged" in refusal(lambda: load_lm("model.path", str(path), torch.float32))
    (path / "adapter_model.safetensors").write_bytes(whole)
    edit(path / "adapter_config.json", peft_type="NO_SUCH_TYPE")
    assert "'NO_SUCH_TYPE', which is no change of weights" in refusal(lambda: load_lm("model.path", str(path), torch.float32))
    for broken in ("{", "[]"):
        (path / "adapter_config.json").write_text(broken)
        assert "adapter_config.json cannot be read" in refusal(lambda: load_config("model.path", str(path)))
    (path / "adapter_config.json").write_text(config)
    lm_factory("llama").config.save_pretrained(path)
    assert "holds a model and an adapter" in refusal(lambda: load_lm("model.path", str(path), torch.float32))


def test_an_adapter_on_an_adapter_is_refused(adapter, tmp_path):
    _, path = adapter()
    shutil.copytree(path, tmp_path / "second")
    edit(tmp_path / "second" / "adapter_config.json", base_model_name_or_path=str(path))
    (path / "config.json").write_text("{}")  # only so that it is found
    assert "an adapter on" in refusal(lambda: load_config("model.path", str(tmp_path / "second")))


def test_an_adapter_that_is_no_change_of_weights_is_refused(adapter):
    base, path = adapter()
    prompt = get_peft_model(AutoModelForCausalLM.from_pretrained(base), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    shutil.rmtree(path)
    prompt.save_pretrained(path)
    assert "'PROMPT_TUNING', which is no change of weights" in refusal(lambda: load_lm("model.path", str(path), torch.float32))


def test_an_adapter_is_not_merged_into_four_bits(monkeypatch, adapter):
    _, path = adapter()
    monkeypatch.setattr("alignkit.models.loading.check_quantization", lambda device: None)
    message = refusal(lambda: load_quantized_lm("model.path", str(path), torch.float32, torch.bfloat16))
    assert "an adapter, which 4 bits cannot take up" in message
