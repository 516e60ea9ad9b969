"""Rows of a data set on the Hugging Face hub, read over the network one after the other."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignkit.data.hub import check_hub_name, failure, load_splits, read_hub
from alignkit.data.json_rows import Row
from alignkit.data.streams import RowStream, rows_of
from alignkit.data.tables import quiet_datasets
from alignkit.errors import UserError, did_you_mean
from alignkit.hub import ask_hub


def stream_hub(hub: str, subset: str | None, split: str) -> RowStream:
    """The rows of one split, nothing of which is kept on the disk; `subset` is a configuration or a directory of the data set.

    The same revision is read for as long as the hub has no newer one. When the hub does not answer it is the revision of the last time:
    what was made of its rows is found, and rows can be had if the whole data set was downloaded earlier.

    Raises:
        UserError: when there is no such data set, subset or split, or neither the hub nor the cache has it.
    """
    place = f"dataset.hub = {hub}"
    with quiet_datasets() as datasets:
        check_hub_name(hub)
        silence = ask_hub("dataset", hub, place)
        known = _known(datasets, hub, subset, split)
        if silence is not None:
            if known.exists():
                digest, *columns = json.loads(known.read_text())
                return RowStream(
                    place=place, columns=lambda: tuple(columns), digest=digest, read=lambda: iter(read_hub(hub, subset, split))
                )
            table = read_hub(hub, subset, split)
            return RowStream(place=place, columns=lambda: table.columns, digest=str(table.data._fingerprint), read=lambda: iter(table))
        revision = _revision(hub)
        try:
            splits = load_splits(datasets, hub, subset, streaming=True, **({"revision": revision} if revision else {}))
            if split not in splits:
                raise UserError(f"dataset.split = {split!r}; {place} has {', '.join(splits)}.{did_you_mean(split, splits)}")
            data = splits[split]
            names = tuple(data.column_names or next(iter(data)))
        except UserError:
            raise
        except Exception as error:  # whatever the hub, the network and the readers raise
            raise UserError(failure(place, subset, None, error)) from error
    digest = hashlib.sha256(json.dumps([hub, subset, split, revision]).encode()).hexdigest()[:32]
    _remember(known, [digest, *names])
    return RowStream(place=place, columns=lambda: names, digest=digest, read=lambda: _rows(data, place, subset))


def _rows(data: Any, place: str, subset: str | None) -> Iterator[Row]:
    try:
        yield from rows_of(data)
    except Exception as error:
        raise UserError(failure(place, subset, None, error)) from error


def _revision(hub: str) -> str | None:
    """The newest commit."""
    from huggingface_hub import HfApi, constants

    sha: str | None = HfApi(endpoint=constants.ENDPOINT).dataset_info(hub).sha
    return sha


def _known(datasets: Any, hub: str, subset: str | None, split: str) -> Path:
    key = hashlib.sha256(json.dumps([hub, subset, split]).encode()).hexdigest()[:32]
    return Path(datasets.config.HF_DATASETS_CACHE) / "alignkit" / f"hub-stream-{key}.json"


def _remember(file: Path, content: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(content))
    draft.replace(file)
