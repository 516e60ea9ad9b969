"""What a run leaves behind loads in plain transformers with the same numbers, and its heads come back whole."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignkit.data.collate import collate
from alignkit.errors import UserError
from alignkit.loss_settings import HeadSettings
from alignkit.model_settings import AdapterSettings
from alignkit.models.adapters import adapter_layers, add_adapters
from alignkit.models.backbone import Backbone
from alignkit.models.export import check_adapter_export, load_aligned, save_adapter, save_heads, save_model
from alignkit.models.heads import Heads
from alignkit.models.loading import load_lm
from alignkit.models.reference import fingerprint
from alignkit.models.terminal_states import TrunkStates, head_inputs
from alignkit.run_dir import RunDir


def build_heads(width: int) -> Heads:
    torch.manual_seed(0)
    poolers = {"helpful": "identity", "harmless": "swiglu_bert"}
    return Heads(width, {name: HeadSettings(name=name, pooler=p, dropout=0.1, init_std=0.3) for name, p in poolers.items()})


@pytest.fixture
def saved(lm_factory, tokenizer_factory, tmp_path) -> Callable[..., tuple[RunDir, Backbone, Heads]]:
    """Saves a model, with heads of any width."""

    def save(architecture: str = "llama", width: int | None = None) -> tuple[RunDir, Backbone, Heads]:
        run, backbone, tokenizer = RunDir(tmp_path), Backbone(lm_factory(architecture)), tokenizer_factory()
        heads = build_heads(width or backbone.hidden_width)
        save_model(run.model, backbone, tokenizer)
        save_heads(run, heads, terminator=2, tokenizer=tokenizer)
        return run, backbone, heads.eval()

    return save


def test_plain_transformers_loads_the_model_with_the_same_logits(architecture, saved):
    run, backbone, _ = saved(architecture)
    plain = AutoModelForCausalLM.from_pretrained(run.model)
    ids = torch.arange(3, 43).view(2, 20)
    assert torch.equal(plain(ids).logits, backbone.lm(ids).logits)
    assert (run.model / "model.safetensors").is_file()


def test_plain_transformers_loads_the_tokenizer(saved):
    run, _, _ = saved()
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    assert tokenizer("w5 w6").input_ids == [5, 6]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def test_heads_come_back_with_the_same_scores(architecture, saved, examples_factory):
    run, backbone, heads = saved(architecture)
    aligned = load_aligned(run.path)
    batch = collate([examples_factory(3)], "packed")
    assert set(aligned.heads) == {"helpful", "harmless"}
    for name in heads:
        expected = heads.scores(name, TrunkStates(backbone)(batch))
        assert torch.equal(aligned.heads.scores(name, TrunkStates(aligned.backbone)(batch)), expected)
        assert aligned.heads.head(name).settings == heads.head(name).settings
    assert not aligned.heads.training
    assert not aligned.backbone.training


def test_the_description_says_how_heads_pool_and_which_token_they_read(saved):
    run, _, heads = saved()
    description = json.loads(run.heads_description.read_text())
    assert description["harmless"].pop("reads")
    assert description["harmless"] == {
        "name": "harmless",
        "pooler": "swiglu_bert",
        "dropout": 0.1,
        "init_std": 0.3,
        "layers": [-1],
        "tokens": "last",
        "standardize": 0,
        "normalize": 0,
        "hidden_width": 32,
        "terminator_id": 2,
        "terminator": "</s>",
    }
    assert load_file(run.heads).keys() == heads.state_dict().keys()


def test_a_head_that_reads_more_comes_back_with_the_same_scores(saved, examples_factory):
    run, backbone, _ = saved()
    settings = HeadSettings(name="wide", pooler="bert", dropout=0.0, init_std=0.3, layers=[1, -1], tokens="attention")
    heads = Heads(backbone.hidden_width, {"wide": settings}).eval()
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_heads(run, heads, terminator=2, tokenizer=load_aligned(run.path).tokenizer)
    aligned = load_aligned(run.path)
    assert aligned.heads.head("wide").settings == settings
    batch = collate([examples_factory(3)], "packed")
    inputs = head_inputs(backbone.hidden_layers(batch, heads.layers), heads.layers, batch, with_tokens=True)
    assert torch.equal(aligned.heads.scores_of("wide", inputs), heads.scores_of("wide", inputs))
    (entry,) = json.loads(run.heads_description.read_text()).values()
    assert (entry["layers"], entry["tokens"]) == ([1, -1], "attention")
    assert "layer 1, -1" in entry["reads"]
    assert "attention at all tokens" in entry["reads"]


def test_heads_from_before_layers_and_tokens_could_be_chosen_still_load(saved):
    run, _, heads = saved()
    description = json.loads(run.heads_description.read_text())
    for entry in description.values():
        assert entry["reads"] == "the hidden state after the final norm at the completion's last token, which ends with the terminator"
        del entry["layers"], entry["tokens"]
    run.heads_description.write_text(json.dumps(description))
    aligned = load_aligned(run.path)
    for name in heads:
        assert aligned.heads.head(name).settings == heads.head(name).settings
        assert all(torch.equal(weight, heads.state_dict()[key]) for key, weight in aligned.heads.state_dict().items())


def test_a_model_in_bf16_keeps_its_bits(saved):
    run, backbone, heads = saved()
    aligned = load_aligned(run.path, torch.bfloat16)
    assert aligned.backbone.lm.dtype == torch.bfloat16
    for ours, theirs in ((aligned.backbone, backbone), (aligned.heads, heads)):
        assert all(torch.equal(t, theirs.state_dict()[name].to(t.dtype)) for name, t in ours.state_dict().items())


def test_a_run_without_heads_loads_with_none(saved):
    run, _, _ = saved()
    run.heads.unlink()
    run.heads_description.unlink()
    assert len(load_aligned(run.path).heads) == 0


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no model/ folder"):
        load_aligned(tmp_path)


def test_heads_of_another_width_are_refused(saved):
    run, _, _ = saved(width=16)
    with pytest.raises(UserError, match="heads do not fit the model"):
        load_aligned(run.path)


def test_heads_of_another_pooler_are_refused(saved):
    run, _, _ = saved()
    description = json.loads(run.heads_description.read_text())
    description["harmless"]["pooler"] = "bert"
    run.heads_description.write_text(json.dumps(description))
    with pytest.raises(UserError, match="heads do not fit the model"):
        load_aligned(run.path)


def test_a_description_without_weights_is_refused(saved):
    run, _, _ = saved()
    run.heads.unlink()
    with pytest.raises(UserError, match="heads"):
        load_aligned(run.path)


def test_truncated_heads_are_refused(saved):
    run, _, _ = saved()
    run.heads.write_bytes(run.heads.read_bytes()[:100])
    with pytest.raises(UserError, match="heads"):
        load_aligned(run.path)


@pytest.fixture
def trained(lm_factory, tokenizer_factory, tmp_path) -> Callable[[str], Backbone]:
    """A model from a folder, with adapters that change it."""

    def build(architecture: str) -> Backbone:
        lm_factory(architecture).save_pretrained(tmp_path / "base")
        tokenizer_factory().save_pretrained(tmp_path / "base")
        backbone = Backbone(load_lm("model.path", str(tmp_path / "base"), torch.float32))
        add_adapters(backbone, AdapterSettings(rank=4, alpha=6.0, dropout=0.1, targets=None, export="merged"))
        torch.manual_seed(0)
        with torch.no_grad():
            for layer in adapter_layers(backbone.lm).values():
                layer.lora_B["default"].weight.normal_(std=0.2)
        return backbone.eval()

    return build


IDS = torch.arange(3, 43).view(2, 20)


def test_merged_adapters_load_in_plain_transformers_and_the_trained_model_stays_as_it_is(
    architecture, trained, tokenizer_factory, tmp_path
):
    backbone = trained(architecture)
    before, logits = fingerprint(backbone), backbone.lm(IDS).logits
    run = RunDir(tmp_path / "run")
    save_model(run.model, backbone, tokenizer_factory())
    assert not list(run.model.glob("adapter*"))
    plain = AutoModelForCausalLM.from_pretrained(run.model, output_loading_info=True)
    assert not plain[1]["missing_keys"]
    assert not plain[1]["unexpected_keys"]
    assert (plain[0](IDS).logits - logits).abs().max() < 1e-4 * logits.abs().max()
    assert (plain[0](IDS).logits - load_lm("m", str(tmp_path / "base"), torch.float32)(IDS).logits).abs().max() > 1e-2
    assert fingerprint(backbone) == before
    assert torch.equal(backbone.lm(IDS).logits, logits)
    assert torch.equal(load_aligned(run.path).backbone.lm(IDS).logits, plain[0](IDS).logits)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft's own, of transformers
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt"])
def test_an_exported_adapter_loads_in_peft_onto_the_base_model_it_names(architecture, trained, tokenizer_factory, tmp_path, monkeypatch):
    backbone = trained(architecture)
    logits = backbone.lm(IDS).logits
    run = RunDir(tmp_path / "run")
    save_adapter(run.model, backbone, tokenizer_factory())
    assert not list(run.model.glob("model*"))
    config = json.loads((run.model / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")
    assert (config["r"], config["lora_alpha"], config["lora_dropout"], config["task_type"]) == (4, 6.0, 0.1, "CAUSAL_LM")
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").stat().st_size < (
        tmp_path / "base" / "model.safetensors"
    ).stat().st_size
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"]), run.model)
    assert torch.equal(loaded(IDS).logits, logits)
    merged = load_aligned(run.path)
    assert (merged.backbone.lm(IDS).logits - logits).abs().max() < 1e-4 * logits.abs().max()
    assert merged.tokenizer("w5 w6").input_ids == [5, 6]


def test_a_relative_base_folder_is_named_in_full(trained, tokenizer_factory, tmp_path, monkeypatch):
    backbone = trained("llama")
    monkeypatch.chdir(tmp_path)
    backbone.lm.name_or_path = "base"
    save_adapter(tmp_path / "out", backbone, tokenizer_factory())
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(tmp_path / "base")


def test_an_adapter_on_an_adapter_is_refused_before_it_is_trained(trained, tokenizer_factory, tmp_path):
    save_adapter(tmp_path / "first", trained("llama"), tokenizer_factory())
    check_adapter_export(str(tmp_path / "base"))
    with pytest.raises(UserError, match=r"model\.lora\.export = 'adapter' with model\.path = .*Type model\.lora\.export=merged"):
        check_adapter_export(str(tmp_path / "first"))
