"""From a data set's settings to encoded examples, with a count for everything that was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from transformers import PreTrainedTokenizerBase

from alignkit.data.dropping import check_dropped
from alignkit.data.encoding import Encoder
from alignkit.data.examples import EncodedExample, PreferenceExample
from alignkit.data.source import GeneratedSource, RowSource, load_examples
from alignkit.errors import UserError
from alignkit.settings import DatasetSettings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedData:
    """What training and validation are cut from."""

    train: list[EncodedExample]
    validation: list[EncodedExample]
    validation_texts: list[PreferenceExample]
    """The examples of `validation` as text, for prompts that are answered aloud."""
    encoder: Encoder
    counts: dict[str, int]
    """Rows read, examples dropped by reason (keys of `dropping.REASONS`), `trimmed_prompts`, `cut_completions`, `boundary_merges`,
    and what is left: `train`, `validation`."""


def prepare(
    settings: DatasetSettings, source: RowSource | GeneratedSource, tokenizer: PreTrainedTokenizerBase, *, completions: int
) -> PreparedData:
    """Load, encode and count. `completions` is how many of an example's completions the objective reads: 1 or 2.

    Raises:
        UserError: when data are missing or malformed, or more than `dataset.max_dropped` of them cannot be used.
    """
    loaded = load_examples(settings, source)
    encoder = Encoder(tokenizer, format=settings.format, max_length=settings.max_length, overflow=settings.overflow)
    train = encode_all(encoder, loaded.train, completions)
    validation = encode_all(encoder, loaded.validation, completions, first_key=len(loaded.train))
    report = encoder.report
    where = f"dataset={settings.name}" + (f" dataset.path={settings.path}" if settings.path else "")
    check_dropped(report.dropped, total=len(loaded.train) + len(loaded.validation), limit=settings.max_dropped, where=where)
    for name, examples in (("train on", train), ("validate on", validation)):
        if not examples:
            account = ", ".join(f"{reason} {count}" for reason, count in report.dropped.items()) or "nothing was dropped"
            raise UserError(f"{where}: no example is left to {name} ({account}). Take more data, or a larger dataset.max_length.")
    dropped = Counter(loaded.counts)
    dropped.update(report.dropped)  # a source and the encoder leave out for some of the same reasons
    counts = {
        **dropped,
        "trimmed_prompts": report.trimmed_prompts,
        "cut_completions": report.cut_completions,
        "boundary_merges": report.boundary_merges,
        "train": len(train),
        "validation": len(validation),
    }
    texts = [loaded.validation[example.key - len(loaded.train)] for example in validation]
    return PreparedData(train=train, validation=validation, validation_texts=texts, encoder=encoder, counts=counts)


def encode_all(encoder: Encoder, examples: Sequence[PreferenceExample], completions: int, *, first_key: int = 0) -> list[EncodedExample]:
    """The examples that can be used, each with its first `completions` completions; keys count all of `examples`."""
    encoded: list[EncodedExample] = []
    for key, example in enumerate(examples, start=first_key):
        if len(example.completions) < completions:
            encoder.report.dropped["no_rejected"] += 1
            continue
        item = encoder.encode(key, replace(example, completions=example.completions[:completions]))
        if item is not None:
            encoded.append(item)
    return encoded
