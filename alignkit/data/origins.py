"""Where an example stands in the user's data: found again when somebody asks, for nothing of it is kept while training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from alignkit.data.examples import PreferenceExample
from alignkit.data.hub import read_hub
from alignkit.data.rows import DroppedRow, RowError
from alignkit.data.source import RowSource, Source, load_examples
from alignkit.data.tables import Table, read_file
from alignkit.errors import UserError
from alignkit.settings import DatasetSettings


def find_rows(settings: DatasetSettings, source: Source, keys: Iterable[int]) -> dict[int, str]:
    """The row, as a user finds it, of training examples by their place among the loaded ones; the first of several rows that say the same.

    Data that are made and not read, that are streamed, mixtures and held-out examples have none, nor have data that cannot be read any
    more. Reads them once more.
    """
    wanted = set(keys)
    if not isinstance(source, RowSource) or settings.streaming or not wanted:
        return {}
    try:
        train = load_examples(settings, source).train
        table = read_file(settings.path, "dataset.path") if settings.path is not None else _of_hub(settings)
    except UserError:
        return {}
    texts = {key: train[key] for key in wanted if 0 <= key < len(train)}
    return {key: table.where(row) for key, row in _rows_of(texts, table, source).items()}


def _of_hub(settings: DatasetSettings) -> Table:
    assert settings.hub is not None
    return read_hub(settings.hub, settings.subset, settings.split)


def _rows_of(texts: Mapping[int, PreferenceExample], table: Table, source: RowSource) -> dict[int, int]:
    found: dict[int, int] = {}
    for index, row in enumerate(table):
        try:
            made = source.to_examples(row)
        except (DroppedRow, RowError):
            continue
        for key, text in texts.items():
            if key not in found and text in made:
                found[key] = index
        if len(found) == len(texts):
            break
    return found
