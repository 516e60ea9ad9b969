"""A checkpoint is there whole, or the one before it is."""

from __future__ import annotations

import pytest
import torch

from alignkit.callbacks import checkpoint_files
from alignkit.callbacks.checkpoint_files import CheckpointFiles


def test_a_checkpoint_is_written_under_its_name_alone(tmp_path):
    target = tmp_path / "checkpoints" / "last.ckpt"
    CheckpointFiles().save_checkpoint({"step": 1}, target)
    CheckpointFiles().save_checkpoint({"step": 2}, str(target))
    assert torch.load(target, weights_only=True) == {"step": 2}
    assert [file.name for file in target.parent.iterdir()] == ["last.ckpt"]


def test_a_process_that_dies_while_it_writes_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    target = tmp_path / "last.ckpt"
    CheckpointFiles().save_checkpoint({"step": 1}, target)

    def die(checkpoint, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint_files.torch, "save", die)
    with pytest.raises(OSError, match="no space"):
        CheckpointFiles().save_checkpoint({"step": 2}, target)
    assert torch.load(target, weights_only=True) == {"step": 1}
    monkeypatch.undo()
    CheckpointFiles().save_checkpoint({"step": 3}, target)
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_folder_that_cannot_be_written_is_no_silence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):  # noqa: PT011  its words are the system's
        CheckpointFiles().save_checkpoint({}, tmp_path / "file" / "last.ckpt")
