"""What a trained model says of texts, from wherever its files are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from alignkit.data.examples import Message
from alignkit.errors import UserError
from alignkit.loss_settings import HeadSettings
from alignkit.models.backbone import Backbone
from alignkit.models.export import load_aligned, save_heads, save_model
from alignkit.models.heads import Heads
from alignkit.models.texts import Texts, load_texts, save_texts
from alignkit.run_dir import RunDir

END = 2
Saved = Callable[..., RunDir]


@pytest.fixture
def saved(lm_factory: Callable[..., PreTrainedModel], tokenizer_factory: Callable[..., Any], tmp_path: Path) -> Saved:
    """A run directory with a toy model and linear heads of these names."""

    def save(*names: str, architecture: str = "llama", kind: str = "text") -> RunDir:
        run, backbone, tokenizer = RunDir(tmp_path / "run"), Backbone(lm_factory(architecture)), tokenizer_factory()
        run.path.mkdir()
        torch.manual_seed(0)
        settings = {name: HeadSettings(name=name, pooler="identity", dropout=0.1, init_std=0.5) for name in names}
        save_model(run.model, backbone, tokenizer)
        if names:
            save_heads(run, Heads(backbone.hidden_width, settings), terminator=END, tokenizer=tokenizer)
        save_texts(run.texts, Texts(kind=kind, terminator_id=END))
        return run

    return save


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mistral"])
def test_a_score_is_the_heads_map_of_the_state_at_the_terminator(architecture: str, saved: Saved) -> None:
    run = saved("dph", architecture=architecture)
    aligned, weight = load_aligned(run.path), load_file(run.heads)["dph.score.weight"][0]
    scores = aligned.score(["w5 w6", "w7", "w5 w6", "w5 w6"], [" w8 w9 w10", " w11", " w12", " w8 w9 w10"])
    for score, ids in zip(scores, [[5, 6, 8, 9, 10, 2], [7, 11, 2], [5, 6, 12, 2], [5, 6, 8, 9, 10, 2]], strict=True):
        states = aligned.lm.base_model(torch.tensor([ids])).last_hidden_state[0]
        assert float(score) == pytest.approx((states[-1] @ weight).item(), abs=1e-4)
    assert scores[0] == scores[3]
    assert (scores.dtype, scores.requires_grad) == (torch.float32, False)


def test_messages_are_prompts_of_dialogues(saved: Saved) -> None:
    aligned = load_aligned(saved("dph", kind="dialogue").path)
    messages = (Message(role="user", content="w5"),)
    assert torch.equal(aligned.score([messages], ["w6"]), aligned.score(["\n\nHuman: w5\n\nAssistant:"], [" w6"]))


def test_a_head_is_named_where_there_are_several(saved: Saved) -> None:
    aligned = load_aligned(saved("helpful", "harmless").path)
    with pytest.raises(UserError, match="there are helpful, harmless"):
        aligned.score(["w5"], [" w6"])
    with pytest.raises(UserError, match=r"head = 'helpfull'.*Did you mean 'helpful'"):
        aligned.score(["w5"], [" w6"], head="helpfull")
    assert aligned.score(["w5"], [" w6"], head="helpful") != aligned.score(["w5"], [" w6"], head="harmless")


def test_texts_that_cannot_be_scored_are_named(saved: Saved) -> None:
    run = saved("dph")
    aligned = load_aligned(run.path)
    with pytest.raises(UserError, match="2 prompts and 1 completions"):
        aligned.score(["w5", "w6"], [" w7"])
    with pytest.raises(UserError, match=r"cannot read ' w7 </s> w8' as an answer to 'w6' \(special_token_in_text\)"):
        aligned.score(["w5", "w6"], [" w7", " w7 </s> w8"])
    with pytest.raises(UserError, match="too_long"):
        aligned.score(["w5"], [" w6" * 200])
    run.texts.unlink()
    with pytest.raises(UserError, match=r"no texts\.json"):
        load_aligned(run.path).score(["w5"], [" w6"])
    run.heads_description.unlink()
    with pytest.raises(UserError, match="trained no head"):
        load_aligned(run.path).score(["w5"], [" w6"])


def test_the_model_folder_and_a_folder_of_all_files_are_the_run(saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = saved("dph")
    expected = load_aligned(run.path).score(["w5"], [" w6"])
    assert torch.equal(load_aligned(run.model).score(["w5"], [" w6"]), expected)
    monkeypatch.chdir(run.model)
    assert torch.equal(load_aligned(".").score(["w5"], [" w6"]), expected)
    flat = Path(shutil.copytree(run.model, tmp_path / "model"))  # named so, in a folder that holds no run
    for file in (run.heads, run.heads_description, run.texts):
        shutil.copy(file, flat)
    assert torch.equal(load_aligned(flat).score(["w5"], [" w6"]), expected)
    assert len(load_aligned(shutil.copytree(run.model, tmp_path / "alone")).heads) == 0


def test_it_is_placed_on_a_device_in_a_type(saved: Saved) -> None:
    aligned = load_aligned(saved("dph").path, torch.bfloat16, "meta")
    assert {(tensor.device.type, tensor.dtype) for module in (aligned.lm, aligned.heads) for tensor in module.parameters()} == {
        ("meta", torch.bfloat16)
    }


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        load_aligned(tmp_path / "nowhere")


def test_how_texts_are_written_comes_back_and_nonsense_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "texts.json"
    assert load_texts(file) is None
    save_texts(file, Texts(kind="chat", terminator_id=7))
    assert load_texts(file) == Texts(kind="chat", terminator_id=7)
    for nonsense in ("{", "[]", '{"kind": "chatt", "terminator_id": 1}', '{"kind": "chat"}'):
        file.write_text(nonsense)
        with pytest.raises(UserError, match=r"texts\.json"):
            load_texts(file)
