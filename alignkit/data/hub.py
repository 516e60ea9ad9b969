"""Rows of a data set on the Hugging Face hub, or the reason why not within seconds."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alignkit.data.tables import Table, quiet_datasets
from alignkit.errors import UserError, did_you_mean
from alignkit.hub import ask_hub, first_line

PARQUET_BRANCH = "refs/convert/parquet"
"""The hub's own conversion of data sets that come as a Python script, which is code of others and is not run."""
HUB_NAME = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?", re.ASCII)
ADVICE = "Type dataset.path=FILE for a file in this format, or dataset=reviews, which needs no network."
"""To whoever cannot have a data set to train on."""


def read_hub(hub: str, subset: str | None, split: str) -> Table:
    """The rows of one split; `subset` is a configuration or a directory of the data set.

    When the hub does not answer, what was downloaded earlier is used.

    Raises:
        UserError: when there is no such data set, subset or split, or neither the hub nor the cache has it.
    """
    place = f"dataset.hub = {hub}"
    with quiet_datasets() as datasets:
        check_hub_name(hub)
        index = _index(datasets, hub, subset)
        silence = ask_hub("dataset", hub, place)
        with offline(datasets, silence is not None):
            try:
                splits = _recall(datasets, index) if silence is not None and index.exists() else load_splits(datasets, hub, subset)
            except Exception as error:  # whatever the hub, the network, the cache and the readers raise
                raise UserError(failure(place, subset, silence, error)) from error
        if silence is None:
            _remember(splits, index)
    if split not in splits:
        raise UserError(f"dataset.split = {split!r}; {place} has {', '.join(splits)}.{did_you_mean(split, splits)}")
    data = splits[split]
    return Table(place=place, columns=tuple(data.column_names), data=data)


def check_hub_name(hub: str) -> None:
    """Refuse what `datasets` would not look for on the hub: a folder of this machine, or one of its readers, which would take files of
    the working directory. Some versions read pickles so.

    Raises:
        UserError: with what to type.
    """
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    if not HUB_NAME.fullmatch(hub) or hub in _PACKAGED_DATASETS_MODULES:
        raise UserError(f"dataset.hub = {hub!r}; must be the name of a data set on the hub, owner/name. For a file: dataset.path=FILE.")


def _index(datasets: Any, hub: str, subset: str | None) -> Path:
    """Where the cache files of a data set are listed.

    `datasets` names the copy of a directory of the hub after the files' revision, so that without the hub it does not find it again.
    """
    key = hashlib.sha256(json.dumps([hub, subset]).encode()).hexdigest()[:32]
    return Path(datasets.config.HF_DATASETS_CACHE) / "alignkit" / f"hub-{key}.json"


def _remember(splits: Mapping[str, Any], index: Path) -> None:
    files = {split: [file["filename"] for file in data.cache_files] for split, data in splits.items()}
    index.parent.mkdir(parents=True, exist_ok=True)
    draft = index.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(files))
    draft.replace(index)


def _recall(datasets: Any, index: Path) -> dict[str, Any]:
    files = json.loads(index.read_text())
    return {split: datasets.concatenate_datasets([datasets.Dataset.from_file(name) for name in names]) for split, names in files.items()}


@contextmanager
def offline(datasets: Any, wanted: bool) -> Iterator[None]:
    """Let the libraries look only into their caches: they do so at once, and otherwise retry for half a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if wanted:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def load_splits(datasets: Any, hub: str, subset: str | None, **options: Any) -> Any:
    """All splits by name; `options` are those of `datasets.load_dataset`, which raises what it likes."""
    try:
        if subset is None:
            return datasets.load_dataset(hub, **options)
        try:
            return datasets.load_dataset(hub, name=subset, **options)
        except ValueError as no_such_configuration:
            try:
                return datasets.load_dataset(hub, data_dir=subset, **options)
            except FileNotFoundError:
                raise no_such_configuration from None
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
        return datasets.load_dataset(hub, data_dir=subset or "default", **{**options, "revision": PARQUET_BRANCH})


def failure(place: str, subset: str | None, silence: str | None, error: Exception) -> str:
    """What is said of a data set that could not be had; `silence` is why the hub does not answer, None where it does."""
    if silence is not None:
        return f"{place}: the hub cannot be reached ({silence}) and the cache does not have the data. {ADVICE}"
    chosen = "" if subset is None else f" with dataset.subset = {subset}"
    return f"{place}{chosen} could not be loaded: {first_line(error)} {ADVICE}"
