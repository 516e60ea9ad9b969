"""A checkpoint is there whole, or the one before it is, whatever the disk does."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from alignkit.callbacks import checkpoint_files
from alignkit.callbacks.checkpoint_files import CheckpointFiles, clear_drafts
from alignkit.manifests import Manifest, damage, newest_intact, step_name
from alignkit.modules.stepping import PROGRESS
from alignkit.run_dir import RunDir


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def files(tmp_path, said) -> CheckpointFiles:
    return CheckpointFiles(RunDir(tmp_path), said.append, keep=2)


def state(step: int) -> dict[str, object]:
    return {PROGRESS: {"steps_done": step}, "state_dict": {"weight": torch.full((4,), float(step))}}


def save(files: CheckpointFiles, folder: Path, step: int) -> Path:
    path = folder / step_name(step)
    files.save_checkpoint(state(step), path)
    return path


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_the_newest_are_kept_each_with_its_manifest_and_the_last_one_has_a_link(files, tmp_path):
    folder = tmp_path / "checkpoints"
    for step in (2, 4, 10):
        save(files, folder, step)
    whole = ["last.ckpt", "step-000004.ckpt", "step-000004.json", "step-000010.ckpt", "step-000010.json"]
    assert names(folder) == whole
    assert torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]["weight"].tolist() == [10.0] * 4
    assert newest_intact(folder) == (folder / "step-000010.ckpt", [])
    files.save_checkpoint(state(4), folder / "best.ckpt")
    assert names(folder) == ["best.ckpt", "best.json", *whole]
    assert damage(folder / "best.ckpt") is None


def test_a_manifest_holds_the_config_of_its_time_and_who_computed_it(files, tmp_path):
    (tmp_path / "config.yaml").write_text("steps: 6\nloss: {name: dpo}\n")
    manifest = Manifest.read(save(files, tmp_path / "checkpoints", 3))
    assert (manifest.step, manifest.config) == (3, {"steps": 6, "loss": {"name": "dpo"}})
    assert manifest.versions["torch"] == torch.__version__
    (size, digest) = manifest.files[""]
    assert size == (tmp_path / "checkpoints" / step_name(3)).stat().st_size
    assert len(digest) == 64


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
@pytest.mark.parametrize("at", ["write", "fsync", "rename", "manifest"])
def test_a_disk_that_fails_leaves_the_checkpoint_before_and_is_told_of_once(at, number, files, said, tmp_path, monkeypatch):
    folder = tmp_path / "checkpoints"
    before = save(files, folder, 1)

    def fail(*args, **kwargs):
        raise OSError(number, "as it were")

    if at == "write":
        monkeypatch.setattr(checkpoint_files.HashingFile, "write", fail)
    elif at == "fsync":
        monkeypatch.setattr(checkpoint_files.os, "fsync", fail)
    elif at == "rename":
        monkeypatch.setattr(checkpoint_files, "put_in_place", fail)
    else:
        monkeypatch.setattr(Manifest, "write", fail)
    for step in (2, 3):
        save(files, folder, step)
        assert files.trouble == "as it were"
    assert newest_intact(folder) == (before, [])
    (line,) = said
    assert "step-000002.ckpt could not be written (as it were; " in line
    assert "That of step 1 is kept" in line
    monkeypatch.undo()
    after = save(files, folder, 4)
    assert files.trouble is None
    assert said[1:] == ["checkpoint: step-000004.ckpt could be written"]
    assert newest_intact(folder) == (after, [])
    clear_drafts(folder)
    assert names(folder) == ["last.ckpt", "step-000001.ckpt", "step-000001.json", "step-000004.ckpt", "step-000004.json"]


def test_a_full_disk_is_told_from_torch_own_errors(files, said, tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("wb", buffering=0) as full:
        file = checkpoint_files.HashingFile(full)
        with pytest.raises((OSError, RuntimeError)):
            torch.save(state(1), file)
        assert file.error is not None
        assert file.error.errno == errno.ENOSPC


def test_our_own_mistakes_are_no_trouble_of_the_disk(files, tmp_path):
    with pytest.raises((AttributeError, TypeError)):
        files.save_checkpoint({"a lambda": lambda: None, PROGRESS: {"steps_done": 1}}, tmp_path / step_name(1))
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_told_of(files, said, tmp_path):
    (tmp_path / "checkpoints").write_text("")
    save(files, tmp_path / "checkpoints", 1)
    assert files.trouble is not None
    assert "There is none before it" in said[0]


def test_what_is_written_in_the_background_is_the_state_of_its_step(said, tmp_path):
    files = CheckpointFiles(RunDir(tmp_path), said.append, keep=2, background=True)
    live = state(1)
    files.save_checkpoint(live, tmp_path / step_name(1))
    live["state_dict"]["weight"].zero_()  # training goes on
    files.wait()
    assert torch.load(tmp_path / step_name(1), weights_only=True)["state_dict"]["weight"].tolist() == [1.0] * 4
    assert newest_intact(tmp_path) == (tmp_path / step_name(1), [])


def test_what_cannot_be_written_in_the_background_is_told_of(said, tmp_path):
    (tmp_path / "checkpoints").write_text("")
    files = CheckpointFiles(RunDir(tmp_path), said.append, background=True)
    save(files, tmp_path / "checkpoints", 1)
    files.teardown()
    assert files.trouble is not None
    assert len(said) == 1
