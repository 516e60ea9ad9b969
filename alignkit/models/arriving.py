"""What arrives of a model from the hub: every file as the hub has it, or one message and no damaged file in the cache.

The hub's client checks how long a file is and not what it holds, and neither the weights' format nor a tokenizer's notices a flipped byte.
The cache names each file after its checksum at the hub: SHA-256 of large files, git's SHA-1 of small ones.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

from alignkit.errors import UserError
from alignkit.hub import REQUEST_SECONDS, answered, first_line
from alignkit.models.location import CONFIGS, is_here

Rest = ParamSpec("Rest")
Loaded = TypeVar("Loaded")

SHA256: Final = re.compile(r"[0-9a-f]{64}")
GIT_SHA1: Final = re.compile(r"[0-9a-f]{40}")
CHUNK: Final = 2**20
NETWORK: Final = ("httpx", "httpcore", "huggingface_hub", "requests", "urllib3")
"""How modules begin whose errors are the network's or the hub's."""
_sound: set[tuple[str, int, int]] = set()
"""Files that this process has read once, with their lengths and the times of their last change."""


def arriving(load: Callable[Concatenate[str, str, Rest], Loaded]) -> Callable[Concatenate[str, str, Rest], Loaded]:
    """A loader, called with a setting and its path, that trusts what the hub sends as little as that it sends.

    Raises:
        UserError: besides what the loader raises, when the hub refuses or breaks off, and when a file is not what the hub has.
    """

    @functools.wraps(load)
    def checked(where: str, path: str, /, *args: Rest.args, **kwargs: Rest.kwargs) -> Loaded:
        if is_here(path):
            return load(where, path, *args, **kwargs)
        try:
            loaded = load(where, path, *args, **kwargs)
        except Exception as error:
            throw_damaged_away(where, path)
            told = failure(where, path, error)
            if told is None:
                raise
            raise UserError(told) from error
        throw_damaged_away(where, path)
        return loaded

    return checked


def throw_damaged_away(where: str, path: str) -> None:
    """Remove files of a model from the cache that are not what the hub has.

    Raises:
        UserError: naming them.
    """
    damaged = []
    for file in cached_files(path):
        kept = file.resolve()
        state = kept.stat()
        seen = (str(kept), state.st_size, state.st_mtime_ns)
        if seen not in _sound and checksum(kept) != kept.name:
            damaged.append(file.name)
            file.unlink()
            kept.unlink()
        else:
            _sound.add(seen)
    if damaged:
        raise UserError(
            f"{where} = {path!r}: what has arrived as {', '.join(damaged)} is not what the hub has (its checksum is another one), and is "
            "removed from the cache. Type the command again, or model.path=FOLDER for a model that is on this machine."
        )


def cached_files(path: str) -> Iterator[Path]:
    """The files of a model in the hub's cache whose checksums are known."""
    import huggingface_hub

    found = (huggingface_hub.try_to_load_from_cache(path, name) for name in CONFIGS)
    folder = next((Path(file).parent for file in found if isinstance(file, str)), None)
    for file in sorted(folder.rglob("*")) if folder is not None else ():
        if file.is_file() and (SHA256.fullmatch(file.resolve().name) or GIT_SHA1.fullmatch(file.resolve().name)):
            yield file


def checksum(file: Path) -> str:
    """What a file of the hub's cache should be called."""
    if SHA256.fullmatch(file.name):
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(f"blob {file.stat().st_size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as content:
        while chunk := content.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def failure(where: str, path: str, error: Exception) -> str | None:
    """What is said of an error that is the hub's or the network's; None of any other."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError

    cause = cause_at_hub(error) or cause_at_hub(weights_refused(path))
    if cause is None:
        return None
    if isinstance(cause, GatedRepoError):
        page = f"{constants.ENDPOINT}/{path}"
        return f"{where} = {path!r} is open only to those who asked. Ask on its page, {page}, then type: hf auth login"
    return (
        f"{where} = {path!r}: the hub refused or broke off ({first_line(cause)}). Files that have come whole are kept: type the command "
        "again once the hub answers, or model.path=FOLDER for a model that is on this machine."
    )


def cause_at_hub(error: BaseException | None) -> BaseException | None:
    """The hub's or the network's part in an error. A file that the hub has not is no trouble of the hub's."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for link in chain_of(error):
        absent = isinstance(link, EntryNotFoundError) and not isinstance(link, LocalEntryNotFoundError)
        if type(link).__module__.startswith(NETWORK) and not absent:
            return link
    return None


def weights_refused(path: str) -> Exception | None:
    """Why the hub does not give a model's weights: transformers keeps that to itself."""
    from huggingface_hub import HfApi, constants, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        return None
    address = hf_hub_url(path, "model.safetensors", endpoint=constants.ENDPOINT)
    try:
        return answered(lambda: HfApi(endpoint=constants.ENDPOINT).get_hf_file_metadata(url=address, timeout=REQUEST_SECONDS))
    except TimeoutError:
        return None


def chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
