"""What a run leaves behind loads in plain transformers with the same numbers, and its heads come back whole."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignkit.data.collate import collate
from alignkit.errors import UserError
from alignkit.models.backbone import Backbone
from alignkit.models.export import load_aligned, save_heads, save_model
from alignkit.models.heads import Heads
from alignkit.models.terminal_states import TrunkStates
from alignkit.run_dir import RunDir
from alignkit.settings import HeadSettings


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
        "hidden_width": 32,
        "terminator_id": 2,
        "terminator": "</s>",
    }
    assert load_file(run.heads).keys() == heads.state_dict().keys()


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
