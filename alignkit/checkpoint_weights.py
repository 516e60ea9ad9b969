"""The weights of a checkpoint, whoever wrote it: one process, as one file, or several, as a folder of shards. One process reads both."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load

from alignkit.callbacks.shard_reader import METADATA, ShardReader, tensor_kinds
from alignkit.callbacks.sharded_checkpoints import WEIGHTS, read_others
from alignkit.errors import UserError
from alignkit.manifests import damage, manifest_of, newest_intact
from alignkit.models.card_sections import CERTIFICATE
from alignkit.modules.stepping import PROGRESS
from alignkit.run_dir import RunDir


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointWeights:
    """What of a checkpoint is no state of the optimizer."""

    tensors: dict[str, Tensor]
    """By the names of the module that was trained: `backbone.`, `heads.`, ..., whole, on the CPU."""
    steps_done: int
    certificate: dict[str, float | int]
    """What was measured before the first update, under the names of `results.json`."""

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Those of one of its modules, by the names inside it."""
        return {name.removeprefix(prefix): tensor for name, tensor in self.tensors.items() if name.startswith(prefix)}


def is_checkpoint(path: Path) -> bool:
    """Whether there is one that was written to its end."""
    return path.is_file() or (path / METADATA).is_file()


def whole_checkpoint(run: RunDir, name: str) -> Path:
    """Where a run's checkpoint of a name lies: `last` is the newest whole one, after a line for each that is passed over.

    Raises:
        UserError: when it is damaged.
    """
    path = run.checkpoints / f"{name}.ckpt"
    if path == run.last_checkpoint:
        newest, damages = newest_intact(run.checkpoints)
        for wrong in damages if newest is not None else ():
            print(f"checkpoint: {wrong}; it is left out", flush=True)
        if newest is not None:
            return newest
    else:
        found = damage(path) if manifest_of(path).exists() else None
        damages = [] if found is None else [f"{path.name} {found}"]
    if damages:
        raise UserError(f"{run.checkpoints}: {'; '.join(damages)}. Is there another with checkpoint=last or checkpoint=best?")
    return path


def steps_of(path: Path) -> int:
    """The optimiser steps after which a checkpoint was written; no weights are read.

    Raises:
        UserError: when it cannot be read.
    """
    with naming(path):
        return int(_saved(path)[PROGRESS]["steps_done"])


def read_weights(path: Path) -> CheckpointWeights:
    """The weights of a checkpoint. Those of one file stay on disk until they are used.

    Raises:
        UserError: when it cannot be read.
    """
    with naming(path):
        saved = _saved(path)
        return CheckpointWeights(
            tensors=_whole(path) if path.is_dir() else dict(saved[WEIGHTS]),
            steps_done=int(saved[PROGRESS]["steps_done"]),
            certificate=_certificate(saved.get("callbacks", {})),
        )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """What is wrong with a checkpoint says which one it is.

    Raises:
        UserError: in the place of a library's error.
    """
    try:
        yield
    except (OSError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError, EOFError, CheckpointException) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        message = f"{path}: the checkpoint cannot be read ({type(error).__name__}: {reason}). Is there another in its folder?"
        raise UserError(message) from None


def _saved(path: Path) -> dict[str, Any]:
    if path.is_dir():
        return read_others(path)
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return saved


def _whole(folder: Path) -> dict[str, Tensor]:
    """Tensors of the module, put together from the shards of all processes; the optimizer's stay where they are."""
    wanted: dict[str, Any] = {
        name: torch.empty(kind.size, dtype=kind.properties.dtype)
        for name, kind in tensor_kinds(folder).items()
        if name.startswith(f"{WEIGHTS}.")
    }
    with warnings.catch_warnings(action="ignore"):  # torch says that there is one process
        load(wanted, storage_reader=ShardReader(folder), no_dist=True)
    return {name.removeprefix(f"{WEIGHTS}."): tensor for name, tensor in wanted.items()}


def _certificate(callbacks: Mapping[str, Any]) -> dict[str, float | int]:
    states = [state for state in callbacks.values() if isinstance(state, Mapping)]
    return {name: value for state in states for name, value in state.items() if str(name).startswith(CERTIFICATE)}
