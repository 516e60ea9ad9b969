"""Values by digest, on disk: whole files that are verified before they are used, shared by any number of processes."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self, final

import torch
from filelock import BaseFileLock, FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from alignkit.caches.place import short
from alignkit.manifests import sync_folder

FORMAT = "1"
"""Of the files and of the values in them. A change of what alignkit computes changes it."""
DIGEST_BYTES = 32
SUFFIX = ".safetensors"
ABANDONED_SECONDS = 3600
"""Age at which a draft belongs to a process that was killed."""
IN_MEMORY = 2**30
"""Bytes that a store copies from its files, so that nothing that happens to a file later reaches a value: one that shrinks under a map
kills the process, and one that changes there changes what was verified. What is beyond stays mapped."""
METADATA = "__metadata__"
LENGTH_BYTES = 8
"""Of the number before a file's header, which says how long that is."""


class Segment(NamedTuple):
    """Values of S examples, one after the other."""

    digests: Tensor
    """[S, 32] uint8, of the examples."""
    ends: Tensor
    """[S] int64, where the rows of each example end."""
    values: Tensor
    """[rows, ...] of all examples."""

    @classmethod
    def of(cls, values: Mapping[bytes, Tensor]) -> Self:
        """Put rows [n, ...] by digest one after the other."""
        digests = torch.frombuffer(bytearray(b"".join(values)), dtype=torch.uint8).view(-1, DIGEST_BYTES)
        ends = torch.tensor([len(rows) for rows in values.values()]).cumsum(0)
        return cls(digests, ends, torch.cat(list(values.values())))

    def keys(self) -> list[bytes]:
        """The digests as bytes."""
        flat = self.digests.numpy().tobytes()
        return [flat[begin : begin + DIGEST_BYTES] for begin in range(0, len(flat), DIGEST_BYTES)]

    def checksum(self) -> str:
        """SHA-256 over types, shapes and bytes."""
        sha = hashlib.sha256()
        for name, tensor in zip(self._fields, self, strict=True):
            sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            sha.update(tensor.contiguous().flatten().view(dtype=torch.uint8).numpy().data)
        return sha.hexdigest()


@final
class Store:
    """One folder of segments, named by their content, that hold one kind of value of one function.

    A segment is written under another name and moved into its place, so that a reader sees it whole or not at all. One that
    is damaged is set aside: never used, never a reason to stop. Where nothing can be written, values live in memory alone.
    """

    def __init__(self, folder: Path, about: Mapping[str, str], say: Callable[[str], None]) -> None:
        """`about` says what the values are, and is kept in every file; `say` tells the user a line."""
        self.folder = folder
        self.about = {"format": FORMAT, **about}
        self.writable = True
        """False once writing has failed."""
        self._say = say
        self._copied = 0

    def read(self, wanted: Mapping[bytes, int]) -> dict[bytes, Tensor]:
        """The values that are there, verified; `wanted` says how many rows belong to each digest."""
        found: dict[bytes, Tensor] = {}
        try:
            files = sorted(self.folder.glob(f"*{SUFFIX}"))
        except OSError:
            return found
        for file in files:
            missing = {digest: rows for digest, rows in wanted.items() if digest not in found}
            if not missing:
                break
            try:
                found |= self._read_segment(file, missing)
            except FileNotFoundError:  # another process has set it aside
                continue
            except OSError as error:
                self._say(f"{short(file)} cannot be read ({error.strerror or error}) and is left out.")
            except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
                self._set_aside(file, str(error).partition("\n")[0])
        return found

    def write(self, values: Mapping[bytes, Tensor]) -> bool:
        """Keep values [n, ...] by digest, on the CPU and of one type, in one segment: whole and on disk when this returns True."""
        if not values or not self.writable:
            return not values
        segment = Segment.of(values)
        checksum = segment.checksum()
        draft = self.folder / f"{checksum[:32]}.{os.getpid()}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            draft.unlink(missing_ok=True)
            with draft.open("xb") as file:  # which follows no link
                file.write(save(segment._asdict(), metadata={**self.about, "sha256": checksum}))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.folder / f"{checksum[:32]}{SUFFIX}")
            sync_folder(self.folder)
        except OSError as error:
            self.writable = False
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            self._say(
                f"{short(self.folder)} cannot be written ({error.strerror or error}), so values are kept in memory for this run alone."
            )
        return self.writable

    @contextmanager
    def locked(self, waiting: str) -> Iterator[None]:
        """Hold the folder alone, after saying `waiting` where another process holds it. Where there are no locks, go on without."""
        lock = self._acquire(waiting)
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    def _acquire(self, waiting: str) -> BaseFileLock | None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / "lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                self._say(waiting)
                lock.acquire(poll_interval=0.2)
        except (OSError, NotImplementedError):
            return None
        self._sweep()
        return lock

    def _read_segment(self, file: Path, wanted: Mapping[bytes, int]) -> dict[bytes, Tensor]:
        if not stat.S_ISREG(file.lstat().st_mode):  # a link may lead anywhere, and a pipe says nothing for ever
            raise OSError("no file of its own")
        if wanted.keys().isdisjoint(_digests(file)):
            return {}
        size = file.stat().st_size
        is_copied = self._copied + size <= IN_MEMORY
        metadata, segment = _copied(file) if is_copied else _mapped(file)
        if metadata != {**self.about, "sha256": segment.checksum()}:
            raise ValueError("its checksum is wrong, or it belongs elsewhere")
        self._copied += size * is_copied
        lengths = segment.ends.diff(prepend=segment.ends.new_zeros(1)).tolist()
        rows = dict(zip(segment.keys(), segment.values.split(lengths), strict=True))
        if any(len(rows[digest]) != count for digest, count in wanted.items() if digest in rows):
            raise ValueError("its shapes are wrong")
        return {digest: rows[digest] for digest in rows.keys() & wanted.keys()}

    def _set_aside(self, file: Path, reason: str) -> None:
        self._say(f"{short(file)} is damaged ({reason}) and set aside; what it held is computed again.")
        with suppress(OSError):
            file.replace(file.with_suffix(".bad"))

    def _sweep(self) -> None:
        """Remove drafts of processes that were killed."""
        for draft in self.folder.glob("*.part"):
            with suppress(OSError):
                if time.time() - draft.stat().st_mtime > ABANDONED_SECONDS:
                    draft.unlink()


def _digests(file: Path) -> list[bytes]:
    """Whose values a file says it holds, without the values."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(LENGTH_BYTES), "little")
        if length > size:
            raise ValueError("its header is longer than the file")
        header = json.loads(opened.read(length))
        begin, end = header["digests"]["data_offsets"]
        last = max(tensor["data_offsets"][1] for name, tensor in header.items() if name != METADATA)
        if not 0 <= begin <= end <= last or LENGTH_BYTES + length + last != size:
            raise ValueError("its header belongs to a file of another length")
        opened.seek(begin, os.SEEK_CUR)
        flat = opened.read(end - begin)
    return [flat[begin : begin + DIGEST_BYTES] for begin in range(0, len(flat), DIGEST_BYTES)]


def _copied(file: Path) -> tuple[dict[str, Any], Segment]:
    """Metadata and content of a file, in memory."""
    content = file.read_bytes()
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    metadata = json.loads(content[LENGTH_BYTES : LENGTH_BYTES + length]).get(METADATA, {})
    tensors = load(content)
    return metadata, Segment(*(tensors[name] for name in Segment._fields))


def _mapped(file: Path) -> tuple[dict[str, Any], Segment]:
    """Metadata and content of a file, which is read again wherever memory is short."""
    with safe_open(file, framework="pt") as opened:
        return opened.metadata() or {}, Segment(*(opened.get_tensor(name) for name in Segment._fields))
