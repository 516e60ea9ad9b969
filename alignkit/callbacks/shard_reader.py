"""Reading folders of shards that somebody else may have written. Torch keeps their table of contents, `.metadata`, as a pickle, and a
pickle can call any function of Python. Here it can name what torch itself writes into such a table, and nothing else."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from alignkit.errors import UserError

METADATA = ".metadata"
LARGEST_METADATA = 2**30
"""Bytes; that of a model of 10^12 parameters on thousands of processes has tens of megabytes."""
CHECKPOINT = "torch.distributed.checkpoint."
ALLOWED: frozenset[tuple[str, str]] = frozenset(
    (
        *(
            (f"{CHECKPOINT}metadata", name)
            for name in (
                *("Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "_MEM_FORMAT_ENCODING"),
                *("TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata"),
            )
        ),
        (f"{CHECKPOINT}filesystem", "_StorageInfo"),
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
        ("collections", "OrderedDict"),
    )
)
"""Modules and names, compared as they stand: `torch.serialization` has `os`, and `os` has `system`."""
DTYPES = frozenset(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))


class ForeignMetadataError(pickle.UnpicklingError):
    """A table of contents that names something else than torch does, or files elsewhere."""


@contextmanager
def without_code(path: Path) -> Iterator[None]:
    """What asks for code where a checkpoint should be is told as such.

    Raises:
        UserError: in the place of torch's error.
    """
    try:
        yield
    except pickle.UnpicklingError as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise UserError(f"{path}: is no checkpoint that a run wrote: {reason} It is not read. Who made it?") from None


@final
class ShardReader(FileSystemReader):
    """Torch's reader, that believes nothing in `.metadata` but shapes, types and places in the files of its own folder."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._folder = path

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """What the folder holds. Raises ForeignMetadataError."""
        metadata = read_metadata(self._folder)
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


@final
class _Unpickler(pickle.Unpickler):
    """Knows the names of `ALLOWED`, types of numbers, and paths, which become text."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ALLOWED:
            return super().find_class(module, name)
        if module == "torch" and name in DTYPES:
            return getattr(torch, name)
        if module in ("pathlib", "pathlib._local") and name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"):
            return _joined
        raise ForeignMetadataError(f"{METADATA} names {module}.{name}, which is no part of a checkpoint")

    def persistent_load(self, pid: Any) -> Any:
        raise ForeignMetadataError(f"{METADATA} refers to something outside of it")


def read_metadata(folder: Path) -> Metadata:
    """The table of contents of a folder of shards.

    Raises:
        ForeignMetadataError: when it names code, or files outside of the folder.
        UnpicklingError: when it is damaged.
    """
    file = folder / METADATA
    if file.stat().st_size > LARGEST_METADATA:
        raise ForeignMetadataError(f"{METADATA} is larger than {LARGEST_METADATA:,} bytes")
    with file.open("rb") as content:
        try:
            metadata = _Unpickler(content).load()
            check_places(metadata, folder)
        except (pickle.UnpicklingError, OSError):
            raise
        except Exception as error:  # a pickle may do anything with the few things that it can reach
            raise pickle.UnpicklingError(f"{METADATA} is damaged ({type(error).__name__}: {error})") from None
    assert isinstance(metadata, Metadata)
    return metadata


def check_places(metadata: object, folder: Path) -> None:
    """Refuse what is no table of contents, and one that leads out of its folder.

    Raises:
        ForeignMetadataError: saying how.
    """
    if not isinstance(metadata, Metadata) or not isinstance(metadata.state_dict_metadata, Mapping):
        raise ForeignMetadataError(f"{METADATA} is no table of contents")
    for key, kind in metadata.state_dict_metadata.items():
        plain = isinstance(kind, TensorStorageMetadata) and isinstance(kind.size, torch.Size)
        if not isinstance(key, str) or (isinstance(kind, TensorStorageMetadata) and not plain):
            raise ForeignMetadataError(f"{METADATA} describes {key!r} as no tensor")
    for info in dict(metadata.storage_data or {}).values():
        name = info.relative_path
        if not isinstance(name, str) or "/" in name or "\\" in name or (folder / name).is_symlink():
            raise ForeignMetadataError(f"{METADATA} names {name!r}, which is not in its folder")


def tensor_kinds(folder: Path) -> dict[str, TensorStorageMetadata]:
    """Shapes and types of the tensors in a folder of shards. Raises what `read_metadata` raises."""
    kinds = read_metadata(folder).state_dict_metadata
    return {key: kind for key, kind in kinds.items() if isinstance(kind, TensorStorageMetadata)}


def _joined(*parts: object) -> str:
    return "/".join(map(str, parts))
