"""Where a model is: in the package, in a folder, or on the hub. Known before anything heavy is imported."""

from __future__ import annotations

import functools
import importlib.resources
from pathlib import Path

from alignkit.errors import UserError
from alignkit.hub import ask_hub

BUILTIN = "builtin:"


def locate(where: str, path: str) -> str:
    """What to hand to `from_pretrained`: a folder, or a hub id that is known to be reachable or cached.

    Raises:
        UserError: when the folder does not exist, or the hub has no such model or cannot be reached.
    """
    if path.startswith(BUILTIN):
        folder = Path(str(importlib.resources.files("alignkit") / "lab" / "pretrained" / path.removeprefix(BUILTIN)))
        if not (folder / "config.json").is_file():
            raise UserError(f"{where} = {path!r}: alignkit ships no such model. Try builtin:tiny.")
        return str(folder)
    local = Path(path).expanduser()
    if local.is_dir():
        if not (local / "config.json").is_file():
            raise UserError(f"{where} = {path!r}: the folder holds no config.json, so it is no Hugging Face model folder.")
        return str(local)
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise UserError(f"{where} = {path!r}: there is no such folder (looked at {local.absolute()}).")
    _require_hub(where, path)
    return path


@functools.cache
def _require_hub(where: str, path: str) -> None:
    silence = ask_hub("model", path, f"{where} = {path!r}")
    if silence is None:
        return
    import huggingface_hub

    if not isinstance(huggingface_hub.try_to_load_from_cache(path, "config.json"), str):
        raise UserError(
            f"{where} = {path!r}: the hub cannot be reached ({silence}) and the model is not in the local cache. "
            "Without a network type model=tiny, or model.path=FOLDER for a model that is on this machine."
        )
    # The library would ask the hub again for every file, with retries.
    huggingface_hub.constants.HF_HUB_OFFLINE = True
