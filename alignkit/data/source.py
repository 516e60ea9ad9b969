"""From rows of a file or a hub data set to examples: what a source is, and what becomes of its rows."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias, final

from alignkit.data.dropping import check_dropped, fault
from alignkit.data.examples import PreferenceExample
from alignkit.data.faults import Faults
from alignkit.data.holdout import check_share, hold_out, prompt_key
from alignkit.data.hub import read_hub
from alignkit.data.oddities import Oddities, of_this_process
from alignkit.data.rows import DroppedRow, RowError
from alignkit.data.tables import Table, read_file
from alignkit.errors import UserError
from alignkit.settings import DatasetSettings


class RowSource(ABC):
    """Turns the rows of a data set's original format into examples.

    Subclasses are frozen dataclasses whose fields are their options: the keys of `conf/dataset/<name>.yaml` that no other source has.
    """

    __slots__ = ()

    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]]
    """The columns of a row, once for each form that the data set comes in."""

    @abstractmethod
    def to_examples(self, row: Mapping[str, object]) -> list[PreferenceExample]:
        """The examples of one row; none when the row is meant to be left out, because nobody preferred anything (`no_preference`).

        Raises:
            RowError: when the row is not in its format.
            DroppedRow: when it is, but is of no use.
        """

    def missing(self, found: Collection[str]) -> tuple[str, ...]:
        """Columns that `to_examples` needs and a table lacks, by the form that comes nearest."""
        gaps = [tuple(column for column in form if column not in found) for form in self.COLUMNS]
        return min(gaps, key=len)


class GeneratedSource(Protocol):
    """Makes its examples instead of reading them."""

    def train(self) -> list[PreferenceExample]:
        """Examples to train on."""

    def validation(self, count: int) -> list[PreferenceExample]:
        """`count` examples whose prompts are not among those of `train`."""


class LoadingSource(ABC):
    """Needs all that there is to make one example."""

    __slots__ = ()

    @abstractmethod
    def load(self, settings: DatasetSettings) -> LoadedExamples:
        """The examples of a run; `settings` are those of the whole."""


class CompositeSource(LoadingSource):
    """Has its examples from other sources."""

    __slots__ = ()

    @abstractmethod
    def members(self, settings: DatasetSettings) -> dict[str, Member]:
        """The sources by name; `settings` are those of the whole."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One source of a composite one."""

    settings: DatasetSettings
    """As of a data set of its own."""
    source: RowSource | GeneratedSource | LoadingSource
    weight: float
    """How often an epoch visits each of its training examples, > 0."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedExamples:
    """What a run trains on and is validated on, with the account of what was left out."""

    train: list[PreferenceExample]
    """In the order of the file."""
    validation: list[PreferenceExample]
    """No prompt of these is in `train`."""
    counts: dict[str, int]
    """`rows` read, `no_preference` rows left out on purpose, examples dropped by reason (`identical`, `empty`, ...), `train`,
    `validation`."""


Source: TypeAlias = RowSource | GeneratedSource | LoadingSource


def load_examples(settings: DatasetSettings, source: Source) -> LoadedExamples:
    """Read or make the examples of a run.

    `dataset.path` is read when it is given, else `dataset.hub`. Without `dataset.validation_path` whole prompts are held out of it.

    Raises:
        UserError: when the data cannot be found, read or understood, when more of it than `dataset.max_dropped` is of no use, when the
            two sides share a prompt, or when too little would remain to train on.
    """
    if isinstance(source, LoadingSource):
        return source.load(settings)
    if not isinstance(source, RowSource):
        return _generate(settings, source)
    data = _convert(_table(settings), source, settings.max_dropped)
    counts = data.counts
    if settings.validation_path is None:
        train, validation = hold_out(data.examples, settings.validation_examples)
        check_share(data.examples, len(validation), count=settings.validation_examples, where=data.table.place)
        train = train[: settings.train_examples]
    else:
        held = _convert(read_file(settings.validation_path, "dataset.validation_path"), source, settings.max_dropped)
        now_text = isinstance(held.examples[0].prompt, str)
        if now_text != isinstance(data.examples[0].prompt, str):
            raise UserError(two_kinds(data.table.where(data.origins[0]), held.table.where(held.origins[0]), now_text=now_text))
        train, validation = data.examples[: settings.train_examples], held.examples[: settings.validation_examples]
        _check_leaks(train, held, len(validation))
        counts.update(held.counts)
    return _loaded(train, validation, counts)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class _Converted:
    table: Table
    examples: list[PreferenceExample]
    origins: list[int]
    """Row of the table, from 0, of each example."""
    counts: Counter[str]


def _generate(settings: DatasetSettings, source: GeneratedSource) -> LoadedExamples:
    for key, value in (("path", settings.path), ("validation_path", settings.validation_path), ("hub", settings.hub)):
        if value is not None:
            raise UserError(
                f"dataset.{key} = {value} has no effect: dataset={settings.name} makes its own data. Leave it out, or choose the "
                f"format of the data, e.g. dataset=local dataset.{key}={value}."
            )
    return _loaded(source.train()[: settings.train_examples], source.validation(settings.validation_examples), Counter())


def _loaded(train: list[PreferenceExample], validation: list[PreferenceExample], counts: Counter[str]) -> LoadedExamples:
    return LoadedExamples(train=train, validation=validation, counts={**counts, "train": len(train), "validation": len(validation)})


def _table(settings: DatasetSettings) -> Table:
    if settings.path is not None:
        return read_file(settings.path, "dataset.path")
    if settings.hub is not None:
        return read_hub(settings.hub, settings.subset, settings.split)
    raise UserError(no_place(settings.name))


def no_place(name: str) -> str:
    """What is said where neither a file nor a hub data set is named."""
    return f"dataset.path is missing: dataset={name} has no place of its own on the hub. Type dataset.path=FILE."


def _convert(table: Table, source: RowSource, max_dropped: float) -> _Converted:
    check_columns(table.place, table.columns, source)
    examples: list[PreferenceExample] = []
    origins: list[int] = []
    dropped = Counter(identical=0, empty=0)
    rows = unpreferred = candidates = 0
    faults, oddities = Faults(), Oddities(of_this_process)
    for index, row in enumerate(table):
        rows += 1
        found = _examples_of(row, source, index, dropped, faults)
        unpreferred += found == []
        candidates += 1 if found is None else len(found)
        for example in found or ():
            reason = fault(example)
            if reason is not None:
                dropped[reason] += 1
                continue
            oddities.look(example)
            examples.append(example)
            origins.append(index)
            if isinstance(example.prompt, str) != isinstance(examples[0].prompt, str):
                raise UserError(two_kinds(table.where(origins[0]), table.where(index), now_text=isinstance(example.prompt, str)))
    faults.check(table.place, table.lines_of)
    check_dropped(dropped, total=candidates, limit=max_dropped, where=table.place)
    counts = Counter({"rows": rows, "no_preference": unpreferred, **dropped, **oddities.counted()})
    check_some_left(len(examples), counts, table.place)
    return _Converted(table=table, examples=examples, origins=origins, counts=counts)


def _examples_of(
    row: Mapping[str, object], source: RowSource, index: int, dropped: Counter[str], faults: Faults
) -> list[PreferenceExample] | None:
    """The examples of a row; None when it is malformed, or had to be dropped, which is counted."""
    try:
        return source.to_examples(row)
    except RowError as error:
        faults.add(index, f": {error}")
        return None
    except DroppedRow as verdict:
        dropped[verdict.reason] += 1
        return None


def _check_leaks(train: list[PreferenceExample], held: _Converted, used: int) -> None:
    known = {prompt_key(example) for example in train}
    leaked = [index for index, example in enumerate(held.examples[:used]) if prompt_key(example) in known]
    if leaked:
        raise UserError(leak(held.table.where(held.origins[leaked[0]]), len(leaked), used))


def leak(where: str, leaked: int, used: int) -> str:
    """What is said of held-out examples whose prompts are trained on; `where` is the first of them."""
    return (
        f"{where}: the prompt is in the training data too (leaked = {leaked} of {used} "
        "held-out examples), so validation would not show what was learnt. Delete those rows, or leave dataset.validation_path "
        "out: then whole prompts are held out of the training data."
    )


def two_kinds(first: str, other: str, *, now_text: bool) -> str:
    """What is said where the row `first` is of one kind and the row `other` of another."""
    kinds = ("chat messages", "plain text") if now_text else ("plain text", "chat messages")
    return f"{other} holds {kinds[1]}, and {first} {kinds[0]}; all rows must be of one kind. Convert one of them, or split the file."


def check_some_left(examples: int, counts: Mapping[str, int], place: str) -> None:
    """Refuse a table of which no example is left.

    Raises:
        UserError: with the counts.
    """
    if not examples:
        account = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        raise UserError(f"{place}: no example is left ({account}). Choose other data with dataset.path=FILE.")


def check_columns(place: str, columns: tuple[str, ...], source: RowSource) -> None:
    """Refuse a table that lacks a column which its source needs.

    Raises:
        UserError: with the columns there are, the nearest one to each that is missing, and the mapping to type.
    """
    missing = source.missing(columns)
    if missing:
        raise UserError(_missing_columns(place, columns, missing))


def _missing_columns(place: str, columns: tuple[str, ...], missing: tuple[str, ...]) -> str:
    guesses = {name: difflib.get_close_matches(name, columns, n=1, cutoff=0.5) for name in (*missing, "prompt", "chosen", "rejected")}
    near = [f" Did you mean {guess[0]!r} for {name!r}?" for name, guess in guesses.items() if guess and name in missing]
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t|"):
        near = [" The fields look separated by something other than a comma; write the file with commas."]
    mapping = ", ".join(f"{name}: {(guesses[name] or ['COLUMN'])[0]}" for name in ("prompt", "chosen", "rejected"))
    return (
        f"{place}: no column {', '.join(map(repr, missing))}; found {', '.join(map(repr, columns))}.{''.join(near)} "
        f"To read other columns type: dataset=local {place.replace(' = ', '=')} 'dataset.columns={{{mapping}}}'"
    )
