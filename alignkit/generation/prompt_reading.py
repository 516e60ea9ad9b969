"""The prompts of `alignkit.generate`, from wherever they come, and as the model reads them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from alignkit.data.diagnosis import UNREADABLE, explain
from alignkit.data.dropping import REASONS
from alignkit.data.encoding import Encoder
from alignkit.data.examples import PreferenceExample
from alignkit.data.faults import Faults, row_name
from alignkit.data.holdout import prompt_key
from alignkit.data.lines import physical_lines
from alignkit.data.rows import RowError, messages, text, without_nul
from alignkit.data.source import load_examples
from alignkit.data.tables import FORMATS, Table, is_there, read_file
from alignkit.errors import UserError, did_you_mean
from alignkit.generate_settings import HELD_OUT, STREAM, TRAINING
from alignkit.resolution import build_source
from alignkit.settings import RunSettings

COLUMN = "prompt"
UNBOUNDED = 2**30


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """One prompt to be answered."""

    example: PreferenceExample
    """Without completions."""
    place: str
    """Where it stands: `prompts = questions.txt, line 3`."""


def read_prompts(prompts: str, settings: RunSettings, column: str = COLUMN) -> Iterator[Prompt]:
    """The prompts that `prompts=` names, in their order; in tables they are in a `column`. Of a data set each one comes once.

    Raises:
        UserError: when a file is none of prompts, naming the row.
    """
    if prompts in (HELD_OUT, TRAINING):
        loaded = load_examples(settings.dataset, build_source(settings.dataset, settings.allow_code))  # type: ignore[arg-type]
        examples = loaded.validation if prompts == HELD_OUT else loaded.train
        distinct = {prompt_key(example): example for example in reversed(examples)}.values()
        yield from (_prompt(example.prompt, f"dataset={settings.dataset.name}") for example in reversed(distinct))
    elif prompts == STREAM:
        yield from _lines(sys.stdin.read(), "prompts = -")
    else:
        yield from read_texts(prompts, "prompts", column)


def read_texts(path: str, setting: str, column: str) -> Iterator[Prompt]:
    """The texts of a file, in their order: lines, or a column of a table. `setting` is the dotted path that named the file.

    Raises:
        UserError: when it is none of these, naming the row.
    """
    if _is_table(file := Path(path).expanduser()):
        yield from _rows(read_file(path, setting), column)
    else:
        yield from _text_file(file, f"{setting} = {path}")


@final
class PromptReader:
    """Prompts as token ids, as training encodes them; counts what happens to them."""

    def __init__(self, encoder: Encoder, *, room: int) -> None:
        """`room`: tokens of the longest prompt; longer ones lose their oldest."""
        self.encoder = encoder
        self.room = room
        self.trimmed = 0
        self.left_out: Counter[str] = Counter()
        """By reason, a key of `alignkit.data.dropping.REASONS`."""

    def __call__(self, prompt: PreferenceExample) -> tuple[int, ...]:
        """Token ids of a prompt, at least one.

        Raises:
            UserError: when the model cannot be asked this.
        """
        reason = self._fault(prompt)
        if reason is not None:
            raise UserError(f"{REASONS[reason]}. Change the prompt{self._advice(reason)}.")
        ids = self.encoder.encode_prompt(prompt, UNBOUNDED)
        if len(ids) > self.room:
            self.trimmed += 1
            ids = self.encoder.encode_prompt(prompt, self.room)
        return tuple(ids)

    def usable(self, prompts: Sequence[Prompt], *, strict: bool) -> list[Prompt]:
        """The prompts that the model can be asked, all of which end their answers with one token.

        Raises:
            UserError: when none is left, and where it is `strict`, on the first one that is of no use.
        """
        usable = []
        for prompt in prompts:
            reason = self._fault(prompt.example)
            if reason is None:
                usable.append(prompt)
            elif strict:
                raise UserError(f"{prompt.place}: {REASONS[reason]}. Change or remove it{self._advice(reason)}.")
            else:
                self.left_out[reason] += 1
        if not usable:
            account = ", ".join(f"{reason} {count}" for reason, count in self.left_out.items())
            raise UserError(f"prompts: there is none{f' that can be used ({account})' if account else ''}. Choose another file.")
        first, rest = usable[0], usable[1:]
        if other := next((prompt for prompt in rest if self.terminator(prompt.example) != self.terminator(first.example)), None):
            kinds = ["text" if isinstance(prompt.example.prompt, str) else "chat messages" for prompt in (other, first)]
            raise UserError(f"{other.place} holds {kinds[0]}, and {first.place} {kinds[1]}; all prompts must be of one kind. Split them.")
        return usable

    def terminator(self, prompt: PreferenceExample) -> int:
        """The token that ends an answer."""
        return self.encoder.render(prompt)[2]

    def joins(self, prompt: PreferenceExample) -> bool:
        """Whether an answer is joined to the prompt as it stands, without a template or a speaker's name between them."""
        return isinstance(prompt.prompt, str) and not self.encoder.strings_are_messages

    def _fault(self, prompt: PreferenceExample) -> str | None:
        """Why training would leave out an example with this prompt."""
        report = self.encoder.report
        report.dropped.clear()
        self.encoder.encode(0, PreferenceExample(prompt=prompt.prompt, completions=(" a",)))
        return next(iter(report.dropped), None)

    @staticmethod
    def _advice(reason: str) -> str:
        return ", or type dataset.format=text" if reason == "template_refused" else ""


def _prompt(prompt: object, place: str) -> Prompt:
    return Prompt(example=PreferenceExample(prompt=prompt, completions=()), place=place)  # type: ignore[arg-type]


def _is_table(file: Path) -> bool:
    """Whether it is to be read as a table; so is what is no file, for that says what is wrong."""
    kinds = [suffix.lower() for suffix in file.suffixes if suffix.lower() != ".gz"]
    return not is_there(file) or not file.is_file() or (bool(kinds) and kinds[-1] in FORMATS)


def _rows(table: Table, column: str) -> Iterator[Prompt]:
    if column not in table.columns:
        raise UserError(
            f"{table.place}: no column {column!r}; found {', '.join(map(repr, table.columns))}.{did_you_mean(column, table.columns)} "
            "Rename it."
        )
    faults, prompts = Faults(), list[Prompt]()
    for index, (line, row) in enumerate(table.numbered()):
        try:
            prompts.append(_prompt(_of_row(row, column), f"{table.place}, {row_name(index, {index: line} if line is not None else {})}"))
        except RowError as error:
            faults.add(index, f": {error}")
    faults.check(table.place, table.lines_of)
    yield from prompts


def _of_row(row: Mapping[str, object], column: str) -> object:
    return messages(row, column) if isinstance(row[column], list) else text(row, column)


def _text_file(file: Path, place: str) -> Iterator[Prompt]:
    try:
        for number, line in physical_lines(file):
            yield from _line(_decoded(line, f"{place}, line {number}"), f"{place}, line {number}")
    except UNREADABLE as error:
        raise UserError(f"{place}{explain(file, 'text', error)}") from None


def _decoded(line: bytes, place: str) -> str:
    try:
        return line.decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{place} is not UTF-8 (byte {error.start + 1} of the line is 0x{line[error.start]:02x}). A file of prompts must hold lines of "
            f"text, or end in {', '.join(FORMATS)}."
        ) from None


def _lines(written: str, place: str) -> Iterator[Prompt]:
    """One prompt a line; empty lines are none."""
    for number, line in enumerate(written.split("\n"), start=1):
        yield from _line(line, f"{place}, line {number}")


def _line(line: str, place: str) -> Iterator[Prompt]:
    try:
        if line := without_nul(line.removesuffix("\r"), place):
            yield _prompt(line, place)
    except RowError as error:
        raise UserError(str(error)) from None
