"""Which checkpoints of a run are whole: beside each lies a manifest, written last, with the checksums of its files.

    checkpoints/
      step-000040.ckpt   a file, or a folder to which several processes have written
      step-000040.json   its manifest
      last.ckpt          a link to the newest, for people and other tools; resuming goes by the manifests
      best.ckpt          weights alone, with a manifest too

A library that loads weights notices no flipped byte; whoever goes on from a checkpoint compares it with its manifest first.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, final

FORMAT = 1
PREFIX = "step-"
SUFFIX = ".ckpt"
LAST = f"last{SUFFIX}"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What is known of a checkpoint without opening it."""

    step: int
    """Optimiser steps done."""
    files: Mapping[str, tuple[int, str]]
    """Size in bytes and SHA-256 of each file: under an empty name the checkpoint itself, else by its name in the checkpoint's folder."""
    config: Mapping[str, Any]
    """That of the run, as it was then."""
    versions: Mapping[str, str]
    """Of the libraries that computed it."""

    def write(self, checkpoint: Path) -> None:
        """Beside a checkpoint, whole or not at all, and on disk when this returns."""
        path = manifest_of(checkpoint)
        draft = path.with_name(f".{path.name}.part")
        values = {name: getattr(self, name) for name in self.__slots__}
        with draft.open("w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, **values}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        sync_folder(path.parent)

    @classmethod
    def read(cls, checkpoint: Path) -> Self:
        """That of a checkpoint.

        Raises:
            ValueError: saying what is wrong with it.
        """
        path = manifest_of(checkpoint)
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"was not written to its end: there is no {path.name}") from None
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{path.name} cannot be read ({type(error).__name__})") from None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            form = values.get("format") if isinstance(values, dict) else None
            raise ValueError(f"{path.name} is of format {form!r}; this version reads {FORMAT}")
        try:
            files = {str(name): (int(size), str(digest)) for name, (size, digest) in values["files"].items()}
            config, versions = dict(values["config"]), {str(name): str(version) for name, version in values["versions"].items()}
            return cls(step=int(values["step"]), files=files, config=config, versions=versions)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ValueError(f"{path.name} is no manifest") from None


def manifest_of(checkpoint: Path) -> Path:
    """Where the manifest of a checkpoint lies."""
    return checkpoint.with_suffix(".json")


def step_name(step: int) -> str:
    """Of the checkpoint of a step."""
    return f"{PREFIX}{step:06d}{SUFFIX}"


def step_of(checkpoint: Path) -> int:
    """The step in a checkpoint's name."""
    return int(checkpoint.stem.removeprefix(PREFIX))


def step_checkpoints(folder: Path) -> list[Path]:
    """Those to resume from, whole or not, the newest first. By their steps: clocks may be put back."""
    found = [path for path in folder.glob(f"{PREFIX}*{SUFFIX}") if path.stem.removeprefix(PREFIX).isdecimal()]
    return sorted(found, key=step_of, reverse=True)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None where every byte is what was written."""
    try:
        manifest = Manifest.read(checkpoint)
        found = dict(files_of(checkpoint))
        if found.keys() != manifest.files.keys():
            odd = sorted(found.keys() ^ manifest.files.keys())
            return f"{odd[0] or 'the file'} is {'not in its manifest' if odd[0] in found else 'missing'}"
        for name, (size, digest) in manifest.files.items():
            what = f"{name} " if name else ""
            if found[name].stat().st_size != size:
                return f"{what}has {found[name].stat().st_size:,} bytes instead of {size:,}"
            if checksum(found[name]) != digest:
                return f"{what}has another checksum than when it was written"
    except ValueError as error:
        return str(error)
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    return None


def newest_intact(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose bytes are all there, and what is wrong with each newer one."""
    damages: list[str] = []
    for checkpoint in step_checkpoints(folder):
        wrong = damage(checkpoint)
        if wrong is None:
            return checkpoint, damages
        damages.append(f"{checkpoint.name} {wrong}")
    return None, damages


def files_of(checkpoint: Path) -> Iterator[tuple[str, Path]]:
    """The files of a checkpoint by their names in it; the file itself under an empty one. Links are not followed.

    Raises:
        ValueError: where something else than a file or folder of files lies.
    """
    if checkpoint.is_symlink() and os.readlink(checkpoint) not in (f".{checkpoint.name}.0", f".{checkpoint.name}.1"):
        raise ValueError("is a link")
    if not checkpoint.is_dir():
        yield "", checkpoint
        return
    for path in sorted(checkpoint.iterdir()):
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"{path.name} is no file")
        yield path.name, path


def checksum(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def remove(checkpoint: Path) -> None:
    """A checkpoint, its manifest first: what is left when this is cut short is not taken for one."""
    manifest_of(checkpoint).unlink(missing_ok=True)
    if checkpoint.is_dir() and not checkpoint.is_symlink():
        shutil.rmtree(checkpoint, ignore_errors=True)
    else:
        checkpoint.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
