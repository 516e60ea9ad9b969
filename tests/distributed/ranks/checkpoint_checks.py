"""Runs go on from the checkpoint of any number of processes, however their weights were cut, as if nothing had happened."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
import torch.distributed
from checking import check
from torch import Tensor
from toy_run import run

from alignkit.callbacks.sharded_checkpoints import read_whole

DONE = 3
STEPS = 6
KINDS = ("one", "fsdp", "tensor")
FOLDER = Path(os.environ["CHECKPOINTS"])
_uninterrupted: list[float] = []


def first_half(kind: str) -> Path:
    """The checkpoint of a run of that kind, after half of the steps."""
    folder = FOLDER / kind
    if not (folder / "last.ckpt").exists():
        run(folder, kind, DONE, None)
        torch.distributed.barrier()
    return folder / "last.ckpt"


def losses_of_one_process() -> list[float]:
    """Of all steps, without a stop."""
    if not _uninterrupted:
        _uninterrupted.extend(run(FOLDER / "uninterrupted", "one", STEPS, None))
    return _uninterrupted


@check(*(f"{begun} {ended}" for begun in KINDS for ended in KINDS))
def a_run_goes_on(kinds: str) -> None:
    begun, ended = kinds.split()
    checkpoint = first_half(begun)
    torch.distributed.barrier()
    losses = run(FOLDER / f"{begun}-{ended}", ended, STEPS, checkpoint)
    expected = losses_of_one_process()
    assert len(losses) == STEPS - DONE
    assert max(abs(a - b) for a, b in zip(losses, expected[DONE:], strict=True)) < 1e-5, (losses, expected)


@check("fsdp", "tensor")
def a_folder_holds_what_one_process_would_have_written(kind: str) -> None:
    ours = read_whole(first_half(kind))
    theirs = torch.load(first_half("one"))
    assert ours.keys() >= {"state_dict", "optimizer_states", "lr_schedulers", "loops", "noted"}
    assert ours["state_dict"].keys() == theirs["state_dict"].keys(), "no reference among them"
    for name, weight in theirs["state_dict"].items():
        assert_close(ours["state_dict"][name], weight)
    (found,), (expected,) = ours["optimizer_states"], theirs["optimizer_states"]
    assert [group["params"] for group in found["param_groups"]] == [group["params"] for group in expected["param_groups"]]
    assert [group["lr"] for group in found["param_groups"]] == [group["lr"] for group in expected["param_groups"]]
    assert found["state"].keys() == expected["state"].keys()
    for number, state in expected["state"].items():
        assert found["state"][number].keys() == state.keys()
        for key, value in state.items():
            assert_close(found["state"][number][key], value)


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


@check()
def a_process_that_dies_while_it_writes_leaves_the_checkpoint_before() -> None:
    folder = FOLDER / "dying"
    if torch.distributed.get_rank() == 0:
        shutil.copytree(first_half("fsdp").parent, folder, symlinks=True)
        (folder / ".last.ckpt.part").mkdir()
        (folder / ".last.ckpt.part" / "__0_0.distcp").write_bytes(b"half of it")
    torch.distributed.barrier()
    losses = run(folder, "fsdp", STEPS, folder / "last.ckpt")
    assert len(losses) == STEPS - DONE
    torch.distributed.barrier()
    assert sorted(file.name for file in folder.iterdir()) == [".last.ckpt.0", "last.ckpt", "last.json"], "the folder before it is gone"
