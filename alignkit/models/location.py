"""Where a model is: in the package, in a folder, or on the hub. Known before anything heavy is imported."""

from __future__ import annotations

import functools
import importlib.resources
from pathlib import Path

from alignkit.errors import UserError
from alignkit.hub import ask_hub

BUILTIN = "builtin:"
CONFIGS = ("config.json", "adapter_config.json")
"""What a folder or repository of a model holds, or one of an adapter."""


def locate(where: str, path: str) -> str:
    """What to hand to `from_pretrained`: a folder, or a hub id that is known to be reachable or cached.

    Raises:
        UserError: when the folder does not exist, or the hub has no such model or cannot be reached.
    """
    if path.startswith(BUILTIN):
        folder = Path(str(importlib.resources.files("alignkit") / "lab" / "pretrained" / path.removeprefix(BUILTIN)))
        if not (folder / "config.json").is_file():
            raise UserError(f"{where} = {path!r}: alignkit ships no such model. Type model=tiny.")
        return str(folder)
    local = Path(path).expanduser()
    if local.is_dir():
        if not any((local / name).is_file() for name in CONFIGS):
            raise UserError(f"{where} = {path!r}: no Hugging Face model folder, for it holds no {CONFIGS[0]}. Type model.path=FOLDER.")
        return str(local)
    if local.exists():
        raise UserError(f"{where} = {path!r}: is a file; a model is a folder. Type model.path=FOLDER.")
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise UserError(f"{where} = {path!r}: there is no such folder (looked at {local.absolute()}). Type model.path=FOLDER.")
    _require_hub(where, path)
    return path


def is_packaged(path: str) -> bool:
    """Whether a path is of a model that alignkit ships."""
    return Path(path).is_relative_to(Path(str(importlib.resources.files("alignkit"))))


def is_here(path: str) -> bool:
    """Whether a path means a place on this machine, even one that is gone, and no name of the hub."""
    local = Path(path).expanduser()
    return path.startswith((BUILTIN, ".")) or local.is_absolute() or local.exists()


@functools.cache
def _require_hub(where: str, path: str) -> None:
    silence = ask_hub("model", path, f"{where} = {path!r}")
    if silence is None:
        return
    import huggingface_hub

    try:
        cached = any(isinstance(huggingface_hub.try_to_load_from_cache(path, name), str) for name in CONFIGS)
    except huggingface_hub.errors.HFValidationError:
        raise UserError(f"{where} = {path!r}: neither a folder here nor a hub id, which looks like owner/name.") from None
    if not cached:
        raise UserError(
            f"{where} = {path!r}: the hub cannot be reached ({silence}) and the model is not in the local cache. "
            "Without a network type model=tiny, or model.path=FOLDER for a model that is on this machine."
        )
    # The library would ask the hub again for every file, with retries.
    huggingface_hub.constants.HF_HUB_OFFLINE = True
