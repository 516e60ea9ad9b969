"""Data sets that do not fit into memory: indexed once, and chosen from by columns.

What comes out is what `preparation` makes of the same rows in memory: the same examples under the same keys in the same order, and the
same account of what was left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from alignkit.data.arrow_examples import ArrowExamples
from alignkit.data.conversion import Converter
from alignkit.data.dropping import ODDITIES, check_dropped
from alignkit.data.encoding import Encoder
from alignkit.data.example_index import KEPT, REASON_NAMES, ExampleIndex, Numbers
from alignkit.data.forms import Form
from alignkit.data.holdout import modest_count, too_much_held
from alignkit.data.hub_stream import stream_hub
from alignkit.data.indexing import Indexing, index_of
from alignkit.data.parts import check_kinds, naming_part, none_drawn
from alignkit.data.selection import distinct_count, held_out, repeated
from alignkit.data.sides import Sides
from alignkit.data.source import CompositeSource, Member, RowSource, Source, check_some_left, leak, no_place, two_kinds
from alignkit.data.streams import RowStream, stream_file
from alignkit.errors import UserError
from alignkit.settings import DatasetSettings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class _Chosen:
    """Rows of one index."""

    index: ExampleIndex
    rows: Numbers
    """[n] int32, as they are loaded, those that are left out later included."""

    def column(self, name: str) -> Numbers:
        """[n] of the chosen rows."""
        column: Numbers = self.index.column(name)[self.rows]
        return column


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What `source.LoadedExamples` is for examples in memory."""

    train: _Chosen
    validation: _Chosen
    counts: Counter[str]


def streamed_sides(
    settings: DatasetSettings,
    source: Source,
    encoder: Encoder,
    *,
    form: Form,
    by_source: Mapping[str, Form],
    indexing: Indexing,
) -> Sides:
    """Index, choose, and count what is left out in the encoder's report. Held-out examples are read, those to train on are not.

    Raises:
        UserError: as `source.load_examples` does, and when a source makes its examples instead of reading them.
    """
    is_mixture = isinstance(source, CompositeSource)
    members = source.members(settings) if isinstance(source, CompositeSource) else {"": _alone(settings, source)}
    parts: dict[str, _Part] = {}
    for name, member in members.items():
        with naming_part(name, member.settings.options) if is_mixture else nullcontext():
            parts[name] = _load(member, Converter(source=_read(member), form=by_source.get(name, form), encoder=encoder), indexing)
    counts: Counter[str] = Counter()
    for part in parts.values():
        counts.update(part.counts)
    if is_mixture:
        check_kinds(
            {name: part.validation.index.about.is_text for name, part in parts.items() if len(part.validation.rows)}, settings.format
        )
        parts = _mixed(parts, members, counts)
    loaded = sum(len(part.train.rows) for part in parts.values())
    train = _examples({name: part.train for name, part in parts.items()}, encoder, first_key=0)
    validation = _examples({name: part.validation for name, part in parts.items()}, encoder, first_key=loaded)
    return Sides(
        train=train,
        validation=list(validation),
        validation_texts=validation.texts(),
        total=loaded + sum(len(part.validation.rows) for part in parts.values()),
        counts=counts,
    )


def _alone(settings: DatasetSettings, source: Any) -> Member:
    return Member(settings=settings, source=source, weight=1.0)


def _read(member: Member) -> RowSource:
    if not isinstance(member.source, RowSource):
        raise UserError(
            f"dataset.streaming = True has no effect: dataset={member.settings.name} makes its own data, in memory. Leave it out, or "
            "choose the format of data to read, e.g. dataset=local dataset.path=FILE."
        )
    return member.source


def _load(member: Member, converter: Converter, indexing: Indexing) -> _Part:
    """`source.load_examples` on columns."""
    settings = member.settings
    stream = _stream(settings)
    index, counts = _indexed(stream, converter, settings.max_dropped, indexing)
    if settings.validation_path is None:
        prompts = index.column("prompt")
        held = held_out(prompts, settings.validation_examples)
        _check_share(prompts, held, settings.validation_examples, stream.place)
        train = _Chosen(index=index, rows=_places(~held)[: settings.train_examples])
        return _Part(train=train, validation=_Chosen(index=index, rows=_places(held)), counts=counts)
    other = stream_file(settings.validation_path, "dataset.validation_path")
    held_index, held_counts = _indexed(other, converter, settings.max_dropped, indexing)
    if held_index.about.is_text != index.about.is_text:
        first, held_first = (int(one.column("row")[0]) for one in (index, held_index))
        raise UserError(two_kinds(stream.where(first), other.where(held_first), now_text=held_index.about.is_text))
    train = _Chosen(index=index, rows=np.arange(len(index), dtype=np.int32)[: settings.train_examples])
    validation = _Chosen(index=held_index, rows=np.arange(len(held_index), dtype=np.int32)[: settings.validation_examples])
    _check_leaks(train, validation, other)
    counts.update(held_counts)
    return _Part(train=train, validation=validation, counts=counts)


def _stream(settings: DatasetSettings) -> RowStream:
    if settings.path is not None:
        return stream_file(settings.path, "dataset.path")
    if settings.hub is not None:
        return stream_hub(settings.hub, settings.subset, settings.split)
    raise UserError(no_place(settings.name))


def _indexed(stream: RowStream, converter: Converter, max_dropped: float, indexing: Indexing) -> tuple[ExampleIndex, Counter[str]]:
    """`source._convert` on columns."""
    index = index_of(stream, converter, indexing)
    about = index.about
    dropped = {reason: count for reason, count in about.counts.items() if reason not in ("no_preference", *ODDITIES)}
    check_dropped(dropped, total=about.candidates, limit=max_dropped, where=stream.place)
    counts = Counter({"rows": about.rows, **about.counts})
    check_some_left(len(index), counts, stream.place)
    return index, counts


def _check_share(prompts: Numbers, held: Numbers, count: int, where: str) -> None:
    """`holdout.check_share` on columns."""
    total, taken = len(prompts), int(held.sum())
    if 2 * taken > total:
        modest = int(held_out(prompts, modest_count(total)).sum())
        raise UserError(too_much_held(count, taken, total, prompts=distinct_count(prompts), modest=modest, where=where))


def _check_leaks(train: _Chosen, validation: _Chosen, stream: RowStream) -> None:
    leaked = np.isin(validation.column("prompt"), train.column("prompt"))
    if leaked.any():
        first = int(validation.column("row")[leaked][0])
        raise UserError(leak(stream.where(first), int(leaked.sum()), len(validation.rows)))


def _mixed(parts: Mapping[str, _Part], members: Mapping[str, Member], counts: Counter[str]) -> dict[str, _Part]:
    """Parts without the prompts that others hold out, as often as their weights say."""
    held = np.unique(np.concatenate([part.validation.column("prompt") for part in parts.values()]))
    mixed: dict[str, _Part] = {}
    for name, part in parts.items():
        free = part.train.rows[~np.isin(part.train.column("prompt"), held)]
        counts["held_out_elsewhere"] += len(part.train.rows) - len(free)
        rows = repeated(free, part.train.index.column("content")[free], members[name].weight)
        if not len(rows):
            raise UserError(none_drawn(name, members[name].weight, len(free)))
        mixed[name] = _Part(train=_Chosen(index=part.train.index, rows=rows), validation=part.validation, counts=part.counts)
    return mixed


def _examples(parts: Mapping[str, _Chosen], encoder: Encoder, *, first_key: int) -> ArrowExamples:
    """The chosen rows that are not left out; what was done to them and to the others is counted."""
    report = encoder.report
    numbers: list[Numbers] = []
    rows: list[Numbers] = []
    keys: list[Numbers] = []
    for number, chosen in enumerate(parts.values()):
        codes = chosen.column("code")
        kept = codes == KEPT
        left_out, first, counts = np.unique(codes[~kept], return_index=True, return_counts=True)
        for place in np.argsort(first):  # told in the order in which they came up
            report.dropped[REASON_NAMES[left_out[place]]] += int(counts[place])
        report.trimmed_prompts += int(chosen.column("trimmed").sum(dtype=np.int64))
        report.cut_completions += int(chosen.column("cut").sum(dtype=np.int64))
        report.boundary_merges += int(chosen.column("merged").sum(dtype=np.int64))
        numbers.append(np.full(int(kept.sum()), number, dtype=np.uint8))
        rows.append(chosen.rows[kept])
        keys.append(first_key + np.flatnonzero(kept))
        first_key += len(kept)
    indices = [(name, chosen.index) for name, chosen in parts.items()]
    return ArrowExamples(indices, parts=np.concatenate(numbers), rows=np.concatenate(rows), keys=np.concatenate(keys))


def _places(mask: Numbers) -> Numbers:
    return np.flatnonzero(mask).astype(np.int32)
