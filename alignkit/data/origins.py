"""Where an example stands in the user's data: found again when somebody asks, for nothing of it is kept while training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace

from alignkit.data.examples import PreferenceExample
from alignkit.data.hub import read_hub
from alignkit.data.rows import DroppedRow, RowError
from alignkit.data.source import CompositeSource, Member, RowSource, Source, load_examples
from alignkit.data.tables import Table, read_file
from alignkit.errors import UserError
from alignkit.settings import DatasetSettings


def find_rows(settings: DatasetSettings, source: Source, keys: Iterable[int]) -> dict[int, str]:
    """The row, as a user finds it, of training examples by their place among the loaded ones; the first of several rows that say the same.
    Of a mixture it is the row of the part's own file.

    Data that are made and not read, that are streamed, and held-out examples have none, nor have data that cannot be read any more. Reads
    them once more.
    """
    wanted = set(keys)
    if settings.streaming or not wanted or not isinstance(source, RowSource | CompositeSource):
        return {}
    try:
        train = load_examples(settings, source).train
        texts = {key: train[key] for key in wanted if 0 <= key < len(train)}
        if isinstance(source, CompositeSource):
            return _rows_of_parts(texts, source.members(settings))
        return _rows_of(texts, settings, source)
    except UserError:
        return {}


def _rows_of_parts(texts: Mapping[int, PreferenceExample], members: Mapping[str, Member]) -> dict[int, str]:
    found: dict[int, str] = {}
    for name, member in members.items():
        own = {key: replace(text, source="") for key, text in texts.items() if text.source == name}
        found |= _rows_of(own, member.settings, member.source) if own else {}
    return found


def _rows_of(texts: Mapping[int, PreferenceExample], settings: DatasetSettings, source: Source) -> dict[int, str]:
    if not isinstance(source, RowSource):
        return {}
    table = read_file(settings.path, "dataset.path") if settings.path is not None else _of_hub(settings)
    sought: defaultdict[PreferenceExample, list[int]] = defaultdict(list)
    for key, text in texts.items():
        sought[text].append(key)
    found: dict[int, int] = {}
    for index, row in enumerate(table):
        try:
            made = source.to_examples(row)
        except (DroppedRow, RowError):
            continue
        for example in made:
            found |= dict.fromkeys(sought.pop(example, ()), index)
        if not sought:
            break
    return {key: table.where(row) for key, row in found.items()}


def _of_hub(settings: DatasetSettings) -> Table:
    assert settings.hub is not None
    return read_hub(settings.hub, settings.subset, settings.split)
