"""Checkpoints that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, final

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from alignkit.callbacks.sharded_checkpoints import put_in_place, read_whole


@final
class CheckpointFiles(TorchCheckpointIO):
    """Writes beside the file and renames: a process that is killed on the way leaves the checkpoint before.

    Lightning writes to the system's temporary folder and moves from there, which is no rename where that is another file system, and
    swallows a refusal.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.part")
        with draft.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(draft, target)

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """That of one process, or put together from the parts that several have written."""
        if Path(path).is_dir():
            return read_whole(Path(path), weights_only)
        checkpoint: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only)
        return checkpoint
