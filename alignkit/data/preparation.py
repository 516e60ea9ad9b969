"""From a data set's settings to encoded examples, with a count for everything that was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from transformers import PreTrainedTokenizerBase

from alignkit.data.dropping import check_dropped
from alignkit.data.encoding import Encoder
from alignkit.data.examples import EncodedExample, PreferenceExample
from alignkit.data.forms import Form
from alignkit.data.indexing import Indexing
from alignkit.data.measured import source_counts
from alignkit.data.rows import DroppedRow
from alignkit.data.sides import Sides
from alignkit.data.source import Source, load_examples
from alignkit.data.streaming import streamed_sides
from alignkit.errors import UserError
from alignkit.settings import DatasetSettings

NO_FORMS: Mapping[str, Form] = MappingProxyType({})


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedData:
    """What training and validation are cut from."""

    train: Sequence[EncodedExample]
    """In memory, or with `dataset.streaming` in memory-mapped files: `measured` knows of either what would mean to read all of them."""
    validation: list[EncodedExample]
    validation_texts: list[PreferenceExample]
    """The examples of `validation` as text, with the completions that the objective reads."""
    encoder: Encoder
    counts: dict[str, int]
    """Rows read, examples dropped by reason (keys of `dropping.REASONS`), `trimmed_prompts`, `cut_completions`, `boundary_merges`,
    and what is left: `train`, `validation`, and of a mixture `train/NAME` and `validation/NAME`."""


def prepare(
    settings: DatasetSettings,
    source: Source,
    tokenizer: PreTrainedTokenizerBase,
    *,
    form: Form,
    by_source: Mapping[str, Form] = NO_FORMS,
    indexing: Indexing | None = None,
) -> PreparedData:
    """Load, bring into the form that the objective reads, encode and count.

    Examples are held out before they are brought into form: the same prompts for every objective. `by_source` has the forms of those
    parts of a mixture that another one is read of than `form`. `indexing` says where streamed data are kept; None is the default place.

    Raises:
        UserError: when data are missing or malformed, or more than `dataset.max_dropped` of them cannot be used.
    """
    encoder = Encoder(tokenizer, format=settings.format, max_length=settings.max_length, overflow=settings.overflow)
    dropped = encoder.report.dropped
    if settings.streaming:
        place = indexing or Indexing.under(None)
        sides = streamed_sides(settings, source, encoder, form=form, by_source=by_source, indexing=place)
    else:
        sides = loaded_sides(settings, source, encoder, form=form, by_source=by_source)
    where = f"dataset={settings.name}" + (f" dataset.path={settings.path}" if settings.path else "")
    check_dropped(dropped, total=sides.total, limit=settings.max_dropped, where=where)
    for name, examples in (("train on", sides.train), ("validate on", sides.validation)):
        if not examples:
            account = ", ".join(f"{reason} {count}" for reason, count in dropped.items()) or "nothing was dropped"
            raise UserError(f"{where}: no example is left to {name} ({account}). Take more data, or a larger dataset.max_length.")
    all_dropped = Counter(sides.counts)
    all_dropped.update(dropped)  # a source and the encoder leave out for some of the same reasons
    counts = {
        **all_dropped,
        "trimmed_prompts": encoder.report.trimmed_prompts,
        "cut_completions": encoder.report.cut_completions,
        "boundary_merges": encoder.report.boundary_merges,
        "train": len(sides.train),
        "validation": len(sides.validation),
        **count_parts("train", sides.train),
        **count_parts("validation", sides.validation),
    }
    return PreparedData(
        train=sides.train, validation=sides.validation, validation_texts=sides.validation_texts, encoder=encoder, counts=counts
    )


def loaded_sides(settings: DatasetSettings, source: Source, encoder: Encoder, *, form: Form, by_source: Mapping[str, Form]) -> Sides:
    """Both sides in memory.

    Raises:
        UserError: as `load_examples` does.
    """
    loaded = load_examples(settings, source)
    dropped = encoder.report.dropped
    train_texts, held_out_texts = (
        in_form(examples, form, by_source, dropped, first_key=first_key)
        for examples, first_key in ((loaded.train, 0), (loaded.validation, len(loaded.train)))
    )
    train, validation = encoder.encode_all(train_texts), encoder.encode_all(held_out_texts)
    return Sides(
        train=train,
        validation=validation,
        validation_texts=[held_out_texts[example.key] for example in validation],
        total=len(loaded.train) + len(loaded.validation),
        counts=loaded.counts,
    )


def in_form(
    examples: Sequence[PreferenceExample], form: Form, by_source: Mapping[str, Form], dropped: Counter[str], *, first_key: int
) -> dict[int, PreferenceExample]:
    """Those examples that have what the objective reads, in its form, by their keys, which count all of `examples`."""
    formed: dict[int, PreferenceExample] = {}
    for key, example in enumerate(examples, start=first_key):
        try:
            formed[key] = by_source.get(example.source, form).of(example)
        except DroppedRow as verdict:
            dropped[verdict.reason] += 1
    return formed


def count_parts(side: str, examples: Sequence[EncodedExample]) -> dict[str, int]:
    """Examples of each part of a mixture."""
    return {f"{side}/{source}": count for source, count in sorted(source_counts(examples).items()) if source}
