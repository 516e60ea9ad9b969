"""A checkpoint takes the place of the one before in one step, whatever that was. What folders hold is checked by several processes, in
`tests/distributed`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from alignkit.callbacks.checkpoint_files import CheckpointFiles
from alignkit.callbacks.sharded_checkpoints import OTHERS, apart, numbered, put_in_place
from alignkit.run_dir import RunDir


def write(path: Path, kind: str, content: str) -> Path:
    """A draft."""
    if kind == "file":
        path.write_text(content)
    else:
        path.mkdir()
        (path / "part").write_text(content)
    return path


def content(path: Path) -> str:
    return (path / "part" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("later", ["file", "folder"])
@pytest.mark.parametrize("before", ["nothing", "file", "folder", "copied folder"])
def test_the_newest_takes_the_place_of_any_other_and_nothing_else_is_left(before, later, tmp_path):
    path = tmp_path / "last.ckpt"
    if before == "copied folder":
        write(path, "folder", "old")
    elif before != "nothing":
        put_in_place(write(tmp_path / ".last.ckpt.part", before, "old"), path)
    for newest in ("newer", "newest"):
        put_in_place(write(tmp_path / ".last.ckpt.part", later, newest), path)
        assert content(path) == newest
    assert len(list(tmp_path.iterdir())) == (1 if later == "file" else 2)


def test_a_run_with_its_folder_can_be_moved(tmp_path):
    (tmp_path / "run").mkdir()
    put_in_place(write(tmp_path / "run" / ".last.ckpt.part", "folder", "weights"), tmp_path / "run" / "last.ckpt")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert content(tmp_path / "moved" / "last.ckpt") == "weights"


def test_one_process_replaces_the_folder_of_several(tmp_path):
    path = tmp_path / "last.ckpt"
    put_in_place(write(tmp_path / ".last.ckpt.part", "folder", "theirs"), path)
    files = CheckpointFiles(RunDir(tmp_path), print)
    files.save_checkpoint({"step": 2}, path)
    assert files.load_checkpoint(path, weights_only=True) == {"step": 2}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.ckpt", "last.json"]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")  # of writing
def test_one_process_reads_a_folder_without_a_word(tmp_path, recwarn):
    weights = {"weight": torch.arange(6.0).view(2, 3), "bias": torch.ones(2)}
    tensors, others = apart({"state_dict": weights, "epoch": 3})
    save(tensors, storage_writer=FileSystemWriter(tmp_path / "last.ckpt"), no_dist=True)
    torch.save(others, tmp_path / "last.ckpt" / OTHERS)
    recwarn.clear()
    checkpoint = CheckpointFiles(RunDir(tmp_path), print).load_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert not recwarn.list
    assert checkpoint["epoch"] == 3
    assert all(torch.equal(checkpoint["state_dict"][name], weight) for name, weight in weights.items())


def test_an_optimizers_state_is_put_together_as_torch_has_taken_it_apart():
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW([{"params": [layer.bias]}, {"params": [layer.weight], "lr": 0.5}])
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    names = ["bias", "weight"]
    state = optimizer.state_dict()
    named = {
        "state": {names[number]: values for number, values in state["state"].items()},
        "param_groups": [{**group, "params": [names[number] for number in group["params"]]} for group in state["param_groups"]],
    }
    tensors, others = apart({"state_dict": dict(layer.state_dict()), "optimizer_states": [named], "epoch": 3})
    assert set(tensors) == {"state_dict.weight", "state_dict.bias"} | {
        f"optimizer_0.{name}.{key}" for name in names for key in ("step", "exp_avg", "exp_avg_sq")
    }
    assert others["epoch"] == 3
    prefix = "optimizer_0."
    again = numbered(others["optimizer_states"][0], {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    assert again == state
