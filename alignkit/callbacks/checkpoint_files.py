"""Checkpoints that are there whole or not at all, each with a manifest of what it holds."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, final

import torch
import yaml
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor
from torch.utils._pytree import tree_map

from alignkit.callbacks.shard_reader import without_code
from alignkit.callbacks.sharded_checkpoints import OTHERS, put_in_place, read_whole
from alignkit.manifests import LAST, PREFIX, Manifest, checksum, files_of, manifest_of, remove, step_checkpoints, step_of, sync_folder
from alignkit.modules.stepping import PROGRESS
from alignkit.run_dir import RunDir

LIBRARIES = ("torch", "lightning", "transformers")
"""Whose versions a manifest names."""
PATTERN = ".*.part"
"""Of what a process that was killed has not finished."""


@final
class CheckpointFiles(TorchCheckpointIO):
    """Writes beside the file and renames, then writes the manifest: a process that is killed on the way leaves the checkpoints before.

    A disk that is full or fails is no reason to lose a run: it is said once, `trouble` keeps it, and the checkpoints before stay.
    Lightning writes to the system's temporary folder and moves from there, which is no rename where that is another file system, and
    swallows a refusal.
    """

    def __init__(self, run: RunDir, say: Callable[[str], None], *, keep: int = 2, background: bool = False) -> None:
        """`keep`: of the checkpoints of steps, the newest ones; `background`: write in a thread, from copies of all tensors."""
        self.trouble: str | None = None
        """Why the newest one could not be written; None where it was."""
        self._run = run
        self._say = say
        self._keep = keep
        self._background = background
        self._writing: threading.Thread | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write one, or begin to. What does not work is left in `trouble`: other ranks wait for this one, which must not leave them."""
        self.wait()
        target = Path(path)
        if not self._background:
            self._attempt(target, lambda: self._write(checkpoint, target))
            return
        copied: dict[str, Any] = tree_map(copy_of, checkpoint)
        # Not a daemon: an interpreter that ends waits for what it writes.
        self._writing = threading.Thread(target=self._attempt, args=(target, lambda: self._write(copied, target)))
        self._writing.start()

    def wait(self) -> None:
        """Until what is written in the background lies on the disk."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None

    def finish(self, draft: Path, target: Path, others: dict[str, Any]) -> None:
        """Put in place what several processes have drafted, together with what is no tensor of theirs."""
        self._attempt(target, lambda: self._finish(draft, target, others))

    def fail(self, target: Path, error: BaseException) -> None:
        """Several processes could not write a folder."""
        with suppress(OSError):
            remove(target)
        before = next((step_of(path) for path in step_checkpoints(target.parent) if manifest_of(path).exists()), None)
        kept = f"That of step {before} is kept" if before is not None else "There is none before it"
        free = ""
        with suppress(OSError):
            free = f"; {shutil.disk_usage(target.parent).free / 1e6:,.0f} MB are free there"
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        if self.trouble is None:
            self._say(f"checkpoint: {target} could not be written ({reason}{free}). {kept}; training goes on, and it is tried again.")
        self.trouble = reason

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """That of one process, or put together from the parts that several have written."""
        with without_code(Path(path)):
            if Path(path).is_dir():
                return read_whole(Path(path))
            checkpoint: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only=True)
        return checkpoint

    def teardown(self) -> None:
        """Nothing may be half written when a trainer ends."""
        self.wait()

    def _attempt(self, target: Path, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            self.fail(target, error)
        else:
            if self.trouble is not None:
                self._say(f"checkpoint: {target.name} could be written")
            self.trouble = None

    def _write(self, checkpoint: dict[str, Any], target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.part")
        with removed_on_error(draft), draft.open("wb") as opened:
            file = HashingFile(opened)
            try:
                torch.save(checkpoint, file)  # type: ignore[arg-type]  # all that it asks of a file is `write`
            except Exception:
                if file.error is not None:  # torch makes an error of its own of it
                    raise file.error from None
                raise
            opened.flush()
            os.fsync(opened.fileno())
        put_in_place(draft, target)
        self._seal(target, int(checkpoint.get(PROGRESS, {}).get("steps_done", 0)), {"": (file.bytes, file.sha.hexdigest())})

    def _finish(self, draft: Path, target: Path, others: dict[str, Any]) -> None:
        with (draft / OTHERS).open("wb") as file:
            torch.save(others, file)
            file.flush()
            os.fsync(file.fileno())
        put_in_place(draft, target)
        step = int(others.get(PROGRESS, {}).get("steps_done", 0))
        self._seal(target, step, {name: measured(file) for name, file in files_of(target.resolve())})

    def _seal(self, target: Path, step: int, files: dict[str, tuple[int, str]]) -> None:
        sync_folder(target.parent)
        config = yaml.safe_load(self._run.config.read_text(encoding="utf-8")) if self._run.config.is_file() else None
        Manifest(step=step, files=files, config=config or {}, versions=versions()).write(target)
        if not target.name.startswith(PREFIX):
            return
        link, draft = target.with_name(LAST), target.with_name(f".{LAST}.part")
        draft.unlink(missing_ok=True)
        draft.symlink_to(target.name)
        if link.is_dir() and not link.is_symlink():  # of an older version, copied
            shutil.rmtree(link)
        draft.replace(link)
        for older in step_checkpoints(target.parent)[self._keep :]:
            remove(older)


class HashingFile:
    """A file for `torch.save`, which writes from its beginning to its end, that knows size and SHA-256 of what went into it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha = hashlib.sha256()
        self.bytes = 0
        self.error: OSError | None = None
        """Why a write failed."""

    def write(self, data: bytes) -> int:
        """All of it."""
        try:
            self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self.sha.update(data)
        self.bytes += len(data)
        return len(data)

    def flush(self) -> None:
        """Of the file."""
        self._file.flush()


def copy_of(value: Any) -> Any:
    """A tensor as it is now, on the CPU; anything else is itself."""
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value


def measured(file: Path) -> tuple[int, str]:
    """Size and SHA-256."""
    return file.stat().st_size, checksum(file)


def versions() -> dict[str, str]:
    """Of alignkit and what computes for it."""
    return {name: version(name) for name in ("alignkit", *LIBRARIES)}


def clear_drafts(folder: Path) -> None:
    """What processes that were killed have left half written."""
    for draft in folder.glob(PATTERN):
        shutil.rmtree(draft, ignore_errors=True) if draft.is_dir() and not draft.is_symlink() else draft.unlink(missing_ok=True)


@contextmanager
def removed_on_error(draft: Path) -> Iterator[None]:
    """A draft that cannot be finished only takes room."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
