"""Checkpoints of weights that are cut between processes: a folder to which each writes its own part.

    step-000040.ckpt/              written elsewhere and put in place once it is whole
    best.ckpt -> .best.ckpt.0/     what is replaced: a link is, in one step
        *.distcp, .metadata        tensors, by name: state_dict.<name>, optimizer_<i>.<name>.<key>
        meta.pt                    all else of a checkpoint, as the first process has it

Any number of processes reads it, one too; and what one process has written in one file, any number reads.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from alignkit.callbacks.shard_reader import ShardReader, tensor_kinds

WEIGHTS = "state_dict"
OPTIMIZERS = "optimizer_states"
"""Lightning's keys of a checkpoint."""
STATE = "state"
GROUPS = "param_groups"
PARAMETERS = "params"
"""Torch's keys of an optimizer's state."""
OTHERS = "meta.pt"
OF_THE_MACHINE = ("fused", "foreach")
"""Options of an optimizer that belong to how its weights lie, not to the run."""


@final
class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for cut weights, with checkpoints that are there whole or not at all and fit any number of processes."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Weights as they are cut; writing copies them."""
        assert self.lightning_module is not None
        return dict(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """An optimizer's state, as it is cut, with the names of weights instead of numbers."""
        assert self.lightning_module is not None
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        names = parameter_names(self.lightning_module, inner)
        state = inner.state_dict()
        groups = [{**group, PARAMETERS: [names[number] for number in group[PARAMETERS]]} for group in state[GROUPS]]
        return {STATE: {names[number]: values for number, values in state[STATE].items()}, GROUPS: groups}

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None) -> None:
        """Write the parts of all processes, then let the first one put them in place."""
        path = Path(self.broadcast(str(filepath)))
        draft = path.with_name(f".{path.name}.part")
        if self.is_global_zero:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
        self.barrier()
        tensors, others = apart(checkpoint)
        files = self.checkpoint_io
        try:
            save(tensors, checkpoint_id=draft)  # fails on all processes where it fails on one
        except CheckpointException as error:
            if self.is_global_zero:
                shutil.rmtree(draft, ignore_errors=True)
                files.fail(path, error)  # type: ignore[attr-defined]  # CheckpointFiles
        else:
            if self.is_global_zero:
                files.finish(draft, path, others)  # type: ignore[attr-defined]
        self.barrier()

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Load weights and optimizers, each process its own part; what is returned holds them too."""
        path = Path(self.broadcast(str(checkpoint_path)))
        assert self.lightning_module is not None
        weights = dict(self.lightning_module.state_dict())
        if path.is_dir():
            checkpoint = read_others(path)
            checkpoint[WEIGHTS] = _read_into(path, weights)
        else:
            checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            checkpoint[WEIGHTS] = {name: _part(full, weights.get(name)) for name, full in checkpoint[WEIGHTS].items()}
        for place, optimizer in enumerate(self.optimizers):  # there are none where weights alone are wanted
            saved = checkpoint[OPTIMIZERS][place]
            state = self._read_optimizer(path, place, saved) if path.is_dir() else self._cut_optimizer(place, saved)
            state[GROUPS] = [
                theirs | {name: own[name] for name in OF_THE_MACHINE if name in own}
                for theirs, own in zip(state[GROUPS], optimizer.param_groups, strict=True)
            ]
            optimizer.load_state_dict(state)
        return checkpoint

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take the weights, whatever the module has added to them."""
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint[WEIGHTS], strict=strict)

    def _read_optimizer(self, path: Path, place: int, saved: dict[str, Any]) -> dict[str, Any]:
        own = self._parameters(place)
        prefix = f"{_optimizer(place)}."
        wanted: dict[str, Tensor] = {}
        for key, kind in tensor_kinds(path).items():
            if key.startswith(prefix):
                parameter = own[key.removeprefix(prefix).rpartition(".")[0]]
                same = kind.size == parameter.shape
                wanted[key] = torch.zeros_like(parameter) if same else torch.zeros(kind.size, dtype=kind.properties.dtype)
        load(wanted, storage_reader=ShardReader(path))
        return numbered(saved, {key.removeprefix(prefix): tensor for key, tensor in wanted.items()})

    def _cut_optimizer(self, place: int, saved: dict[str, Any]) -> dict[str, Any]:
        # One process keeps numbers: its groups hold the same weights in the same order.
        own = list(self._parameters(place).values())
        state = {
            number: {key: _part(value, own[number]) if isinstance(value, Tensor) else value for key, value in values.items()}
            for number, values in saved[STATE].items()
        }
        return {**saved, STATE: state}

    def _parameters(self, place: int) -> dict[str, nn.Parameter]:
        assert self.lightning_module is not None
        names = parameter_names(self.lightning_module, self.optimizers[place])
        own = dict(self.lightning_module.named_parameters())
        return {name: own[name] for name in names}


def parameter_names(module: nn.Module, optimizer: Optimizer) -> list[str]:
    """Names of an optimizer's parameters, in its own order."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group[PARAMETERS]]


def apart(checkpoint: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of weights and optimizers by their names in the folder, and all else."""
    others = {key: value for key, value in checkpoint.items() if key != WEIGHTS}
    tensors = {f"{WEIGHTS}.{name}": tensor for name, tensor in checkpoint[WEIGHTS].items()}
    if OPTIMIZERS in checkpoint:
        others[OPTIMIZERS] = []
    for place, saved in enumerate(checkpoint.get(OPTIMIZERS, [])):
        numbers: dict[str, dict[str, Any]] = {}
        for name, values in saved[STATE].items():
            tensors |= {f"{_optimizer(place)}.{name}.{key}": value for key, value in values.items() if isinstance(value, Tensor)}
            numbers[name] = {key: value for key, value in values.items() if not isinstance(value, Tensor)}
        others[OPTIMIZERS].append({**saved, STATE: numbers})
    return tensors, others


def numbered(saved: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """An optimizer's state as torch takes it, from what `apart` has left of it and its tensors by `<name>.<key>`."""
    names = [name for group in saved[GROUPS] for name in group[PARAMETERS]]
    numbers = {name: number for number, name in enumerate(names)}
    state: dict[int, dict[str, Any]] = {numbers[name]: dict(values) for name, values in saved[STATE].items()}
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition(".")
        state[numbers[name]][entry] = tensor
    groups = [{**group, PARAMETERS: [numbers[name] for name in group[PARAMETERS]]} for group in saved[GROUPS]]
    return {**saved, STATE: state, GROUPS: groups}


def read_whole(path: Path) -> dict[str, Any]:
    """A checkpoint in a folder as one process would have written it, on the CPU."""
    checkpoint = read_others(path)
    tensors: dict[str, Tensor] = {key: torch.empty(kind.size, dtype=kind.properties.dtype) for key, kind in tensor_kinds(path).items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")  # as is asked for
        load(tensors, storage_reader=ShardReader(path), no_dist=True)
    checkpoint[WEIGHTS] = dict(_under(tensors, WEIGHTS))
    if OPTIMIZERS in checkpoint:
        checkpoint[OPTIMIZERS] = [
            numbered(saved, dict(_under(tensors, _optimizer(place)))) for place, saved in enumerate(checkpoint[OPTIMIZERS])
        ]
    return checkpoint


def read_others(path: Path) -> dict[str, Any]:
    """What a checkpoint in a folder holds beside tensors of weights and optimizers."""
    others: dict[str, Any] = torch.load(path / OTHERS, map_location="cpu", weights_only=True)
    return others


def put_in_place(draft: Path, path: Path) -> None:
    """Have `path` be what was drafted, a folder or a file, in one step; what it was before is gone then."""
    before = Path(os.readlink(path)) if path.is_symlink() else None
    if draft.is_file() or not (path.exists() or path.is_symlink()):
        new = draft
    else:
        new = path.with_name(f".{path.name}.{'1' if before is not None and before.suffix == '.0' else '0'}")
        shutil.rmtree(new, ignore_errors=True)
        draft.rename(new)
        link = path.with_name(f".{path.name}.link")
        link.unlink(missing_ok=True)
        link.symlink_to(new.name)
        new = link
    if path.is_dir() and not path.is_symlink():  # a copy of a run, of which links have become folders
        before = Path(f".{path.name}.copied")
        path.rename(path.with_name(before.name))
    new.replace(path)
    if before is not None:
        shutil.rmtree(path.with_name(before.name), ignore_errors=True)


def _optimizer(place: int) -> str:
    return f"optimizer_{place}"


def _under(tensors: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[str, Tensor]]:
    return ((key.removeprefix(f"{prefix}."), tensor) for key, tensor in tensors.items() if key.startswith(f"{prefix}."))


def _read_into(path: Path, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those weights that the folder has, read over what they were."""
    saved = {key.removeprefix(f"{WEIGHTS}.") for key in tensor_kinds(path) if key.startswith(f"{WEIGHTS}.")}
    assert saved <= weights.keys(), f"weights of another model: {sorted(saved - weights.keys())[:3]}"
    known = {name: tensor for name, tensor in weights.items() if name in saved}
    load({f"{WEIGHTS}.{name}": tensor for name, tensor in known.items()}, storage_reader=ShardReader(path))
    return known


def _part(full: Tensor, own: Tensor | None) -> Tensor:
    """This process's part of a whole tensor, cut as its own one is where it has the same shape."""
    if not isinstance(own, DTensor) or own.shape != full.shape:
        return full
    part: Tensor = distribute_tensor(full, own.device_mesh, own.placements, src_data_rank=None)
    return part
