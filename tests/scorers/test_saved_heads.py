"""The description of heads in a run directory: read, added to, and never half written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from alignkit.errors import UserError
from alignkit.models.export import load_aligned
from alignkit.scorers import saved_heads
from alignkit.scorers.normalization import Normalization
from alignkit.scorers.saved_heads import saved_head


def test_only_the_named_head_is_loaded_with_its_weights(write_run):
    run, _, heads = write_run(helpful={"pooler": "bert"}, wide={"layers": [0, 1], "tokens": "attention"})
    loaded = saved_head(run.path, "wide").load()
    assert list(loaded) == ["wide"]
    assert loaded.head("wide").settings == heads.head("wide").settings
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, heads.state_dict()[name])


def test_a_head_of_before_layers_and_tokens_could_be_chosen_loads(write_run):
    run, _, _ = write_run(reward={})
    entries = json.loads(run.heads_description.read_text())
    del entries["reward"]["layers"], entries["reward"]["tokens"]
    run.heads_description.write_text(json.dumps(entries))
    assert saved_head(run.path, None).load().layers == (-1,)


def test_a_normalization_comes_back_and_leaves_everything_else_as_it_was(write_run):
    run, _, _ = write_run(helpful={}, harmless={})
    before = json.loads(run.heads_description.read_text())
    saved = saved_head(run.path, "harmless")
    assert saved.normalization == Normalization(gain=1.0, bias=0.0)
    assert saved.terminator == 2
    saved.store_normalization(Normalization(gain=0.1, bias=1 / 3))
    assert saved.normalization == saved_head(run.path, "harmless").normalization == Normalization(gain=0.1, bias=1 / 3)
    after = json.loads(run.heads_description.read_text())
    assert after["harmless"] == {**before["harmless"], "gain": 0.1, "bias": 1 / 3}
    assert after["helpful"] == before["helpful"]
    assert set(load_aligned(run.path).heads) == {"helpful", "harmless"}


def test_a_write_that_fails_leaves_the_old_description(write_run, monkeypatch):
    run, _, _ = write_run(reward={})
    before = run.heads_description.read_text()

    def full(*args: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(saved_heads.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        saved_head(run.path, None).store_normalization(Normalization(gain=2.0, bias=0.0))
    assert run.heads_description.read_text() == before


def test_files_that_are_broken_are_named(write_run):
    run, _, _ = write_run(reward={})
    run.heads.write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"heads\.safetensors: the head 'reward' cannot be loaded"):
        saved_head(Path(run.path), None).load()
    for text, message in (("{", "cannot be read"), ("[]", "describes no heads"), ("{}", "describes no heads")):
        run.heads_description.write_text(text)
        with pytest.raises(UserError, match=rf"heads\.json: {message}"):
            saved_head(run.path, None)
