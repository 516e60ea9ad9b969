"""What could be labelled: prompts, and the answers to them that are there already.   M answers to one prompt"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from alignkit.data.examples import Message, PreferenceExample
from alignkit.data.faults import Faults, row_name
from alignkit.data.holdout import prompt_key
from alignkit.data.rows import DroppedRow, RowError
from alignkit.data.source import load_examples
from alignkit.data.sources.local import Local
from alignkit.data.tables import Table, read_file
from alignkit.errors import UserError, did_you_mean
from alignkit.foreign_files import read_yaml
from alignkit.generate_settings import HELD_OUT
from alignkit.generation.prompt_reading import read_prompts
from alignkit.label_settings import OF_DATASET, LabelSettings
from alignkit.resolution import build_source
from alignkit.settings import RunSettings

SEVERAL = "completions"
SINGLE = ("completion", "response", "chosen", "rejected")
"""Columns with one answer each; a pair has two of them."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where an answer comes from."""

    source: str
    """A file as it was named, or the data set."""
    model: str | None
    """The model that wrote it, where that is known."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A prompt that could be labelled."""

    example: PreferenceExample
    """With M answers and their ranks where answers are there already; without any where they are to be sampled."""
    place: str
    """Where it stands: `prompts = questions.txt, line 3`."""
    origins: tuple[tuple[Origin, ...], ...] = ()
    """M: each place that an answer comes from."""

    @property
    def identity(self) -> str:
        """A text that two entries share exactly when they ask the same: the same prompt with the same answers, if there are any."""
        return json.dumps([prompt_key(self.example), *sorted(self.example.completions)], ensure_ascii=False)


def read_pool(settings: RunSettings, own: LabelSettings) -> list[Entry]:
    """All entries, in their order; of a data set's prompts, and of files with answers, each prompt comes once.

    Raises:
        UserError: when a file is not what it should be, naming the row.
    """
    if not own.candidates:
        read = read_prompts(own.prompts, settings, own.column)
        return [Entry(example=prompt.example, place=prompt.place) for prompt in read]
    if own.candidates[0] in OF_DATASET:
        return list(of_dataset(settings, own.candidates[0]))
    return merged(entry for file in own.candidates for entry in of_file(file, own.column))


def of_dataset(settings: RunSettings, which: str) -> Iterator[Entry]:
    """The examples of `dataset=`, each for itself, in an order of answers that says nothing of which one is better."""
    loaded = load_examples(settings.dataset, build_source(settings.dataset, settings.allow_code))  # type: ignore[arg-type]
    origin = (Origin(source=f"{which}={settings.dataset.name}", model=None),)
    for example in loaded.validation if which == HELD_OUT else loaded.train:
        count = len(example.completions)
        order = list(range(count))
        random.Random(f"{settings.seed} {prompt_key(example)}").shuffle(order)
        ranks = example.ranks or tuple(order_of(count))
        yield Entry(
            example=PreferenceExample(
                prompt=example.prompt,
                completions=tuple(example.completions[place] for place in order),
                ranks=tuple(ranks[place] for place in order),
                source=example.source,
            ),
            place=f"dataset={settings.dataset.name}",
            origins=(origin,) * count,
        )


def order_of(count: int) -> Sequence[int]:
    """Ranks of answers that stand best first."""
    return range(count)


def of_file(file: str, column: str) -> Iterator[Entry]:
    """The rows of a file with answers: `completions`, or one a row, or a pair, with whatever else stands beside.

    Raises:
        UserError: when the file is none of these, naming the row.
    """
    table = read_file(file, "candidates")
    several = SEVERAL in table.columns
    sides = [SEVERAL] if several else [name for name in SINGLE if name in table.columns]
    check_candidates(table, column, sides)
    reader, writer = Local(columns={}, ratings=[]), model_beside(Path(file).expanduser())
    faults, entries = Faults(), list[Entry]()
    for index, (line, row) in enumerate(table.numbered()):
        try:
            answers = row[SEVERAL] if several else [row[side] for side in sides if row.get(side) is not None]
            (example,) = reader.to_examples({"prompt": row.get(column), SEVERAL: answers})
        except RowError as error:
            faults.add(index, f": {error}")
            continue
        except DroppedRow:
            faults.add(index, ": the answers begin with different prompts, or the turn before them is not the user's")
            continue
        origin = Origin(source=file, model=model_in(row) or writer)
        place = f"{table.place}, {row_name(index, {index: line} if line is not None else {})}"
        entries.append(Entry(example=replace(example, ranks=()), place=place, origins=((origin,),) * len(example.completions)))
    faults.check(table.place, table.lines_of)
    yield from entries


def check_candidates(table: Table, column: str, sides: Sequence[str]) -> None:
    """Refuse a table without prompts or answers.

    Raises:
        UserError: with the columns that there are.
    """
    found = ", ".join(map(repr, table.columns))
    if column not in table.columns:
        near = did_you_mean(column, table.columns)
        raise UserError(f"{table.place}: no column {column!r}; found {found}.{near} Type column=NAME for another one.")
    if not sides:
        raise UserError(f"{table.place}: no answers; found {found}. There must be a column {SEVERAL}, {' or '.join(SINGLE[:2])}.")


def merged(entries: Iterable[Entry]) -> list[Entry]:
    """Entries by prompt, in the order in which prompts come first, with the answers of all of them. Equal answers are one, which has the
    origins of all."""
    found: dict[str, tuple[Entry, dict[str, dict[Origin, None]]]] = {}
    for entry in entries:
        _, answers = found.setdefault(prompt_key(entry.example), (entry, {}))
        for text, origins in zip(entry.example.completions, entry.origins, strict=True):
            answers.setdefault(text, {}).update(dict.fromkeys(origins))
    return [
        replace(
            first,
            example=replace(first.example, completions=tuple(answers)),
            origins=tuple(tuple(origins) for origins in answers.values()),
        )
        for first, answers in found.values()
    ]


def model_in(row: Mapping[str, object]) -> str | None:
    """The model that a row of labels names as the one whose answers it holds."""
    provenance = row.get("provenance")
    model = provenance.get("model") if isinstance(provenance, Mapping) else None
    path = model.get("path") if isinstance(model, Mapping) else None
    return path if isinstance(path, str) else None


def model_beside(file: Path) -> str | None:
    """The model of the run that a file of samples lies in."""
    config = file.parent / "config.yaml"
    if not config.is_file():
        return None
    try:
        values = read_yaml(config)
    except UserError:
        return None
    model = values.get("model") if isinstance(values, Mapping) else None
    path = model.get("path") if isinstance(model, Mapping) else None
    return path if isinstance(path, str) else None


def as_json(prompt: str | tuple[Message, ...]) -> str | list[dict[str, str]]:
    """A prompt as rows have it: a text, or messages."""
    if isinstance(prompt, str):
        return prompt
    return [{"role": message.role, "content": message.content} for message in prompt]


def digest(entries: Iterable[Entry]) -> str:
    """32 hex digits over prompts, answers and where they come from."""
    content: list[Any] = [
        [
            as_json(entry.example.prompt),
            entry.example.completions,
            entry.example.ranks,
            [[one.source for one in origins] for origins in entry.origins],
        ]
        for entry in entries
    ]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:32]
