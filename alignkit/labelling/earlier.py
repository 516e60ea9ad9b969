"""Labels of earlier runs, which a new file holds too, so that their prompts need not be asked again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from alignkit.data.diagnosis import UNREADABLE, explain
from alignkit.data.examples import PreferenceExample
from alignkit.data.faults import Faults
from alignkit.data.holdout import prompt_key
from alignkit.data.lines import physical_lines
from alignkit.data.rows import RowError, messages, text
from alignkit.errors import UserError
from alignkit.label_settings import FORMS, OF_DATASET, PAIRS, RANKINGS, REVISIONS, SCORES, UNPAIRED, LabelSettings
from alignkit.labelling.files import JUDGED
from alignkit.labelling.pool import Entry
from alignkit.run_dir import row_in

COLUMNS: Mapping[str, tuple[str, ...]] = {
    PAIRS: ("prompt", "chosen", "rejected"),
    RANKINGS: ("prompt", "completions", "ranks"),
    SCORES: ("prompt", "completions", "scores"),
    UNPAIRED: ("prompt", "completion", "label"),
    REVISIONS: ("prompt", "chosen", "rejected"),
}
"""What a row has, by its form."""
assert tuple(COLUMNS) == FORMS
ANSWERS = ("completions", "chosen", "rejected", "completion")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Earlier:
    """The rows of earlier files, each once."""

    lines: tuple[str, ...]
    """As they stand there, with their line breaks."""
    asked: Mapping[str, Sequence[frozenset[str]]]
    """By prompt, the answers of each time that it was judged."""

    @property
    def digest(self) -> str:
        """32 hex digits over the rows."""
        return hashlib.sha256("".join(self.lines).encode()).hexdigest()[:32]

    def knows(self, entry: Entry, *, by_answers: bool) -> bool:
        """Whether an entry was judged earlier: its prompt, and where it goes `by_answers`, for a data set may ask the same of other
        answers, with answers that it has."""
        times = self.asked.get(prompt_key(entry.example), ())
        return bool(times) if not by_answers else any(answers <= set(entry.example.completions) for answers in times)


def read_earlier(own: LabelSettings) -> Earlier:
    """The files of `earlier=`, and what `judged.jsonl` beside them says of prompts that were judged and got no row.

    Raises:
        UserError: when one is no file of labels of this form, naming the row.
    """
    lines: dict[str, None] = {}
    asked: dict[str, list[frozenset[str]]] = {}
    for name in own.earlier:
        file = Path(name).expanduser()
        if file.suffix != ".jsonl":
            raise UserError(f"earlier names {name!r}: rows are copied as they stand; must be a .jsonl file, such as RUN/labels.jsonl.")
        faults = Faults()
        for number, line in numbered(file, f"earlier = {name}"):
            try:
                note(checked(line, own.form), asked)
                lines.setdefault(f"{line}\n")
            except RowError as error:
                faults.add(number - 1, f" {error}")
        faults.check(f"earlier = {name}", lambda rows: {row: row + 1 for row in rows})
        judged = file.parent / JUDGED
        for _, line in numbered(judged, str(judged)) if judged.is_file() else ():
            if (row := row_in(line)) is not None and "prompt" in row:
                note(row, asked)
    return Earlier(lines=tuple(lines), asked=asked)


def numbered(file: Path, place: str) -> Iterable[tuple[int, str]]:
    """The lines of a file that hold something, numbered from 1.

    Raises:
        UserError: when they are no text.
    """
    try:
        yield from ((number, line.decode().rstrip("\r\n")) for number, line in physical_lines(file) if line.strip())
    except UNREADABLE as error:
        raise UserError(f"{place}{explain(file, 'text', error)}") from None


def checked(line: str, form: str) -> Mapping[str, Any]:
    """A row of labels of this form.

    Raises:
        RowError: when it is none.
    """
    try:
        row = json.loads(line)
    except ValueError:
        raise RowError("is not JSON.") from None
    if not isinstance(row, dict):
        raise RowError("is no JSON object.")
    if lacking := [column for column in COLUMNS[form] if column not in row]:
        raise RowError(f"has no {' and no '.join(lacking)}; with form={form} a row holds {', '.join(COLUMNS[form])}.")
    return row


def note(row: Mapping[str, Any], asked: dict[str, list[frozenset[str]]]) -> None:
    """Remember what was asked.

    Raises:
        RowError: when the prompt is none.
    """
    prompt = messages(row, "prompt") if isinstance(row["prompt"], list) else text(row, "prompt")
    given = [row[column] for column in ANSWERS if column in row]
    answers = [one for value in given for one in (value if isinstance(value, list) else [value])]
    texts = frozenset(one for one in answers if isinstance(one, str))
    asked.setdefault(prompt_key(PreferenceExample(prompt=prompt, completions=())), []).append(texts)


def not_yet(entries: Sequence[Entry], earlier: Earlier, own: LabelSettings) -> list[Entry]:
    """The entries that have not been judged.

    Raises:
        UserError: when there is none.
    """
    by_answers = bool(own.candidates) and own.candidates[0] in OF_DATASET
    left = [entry for entry in entries if not earlier.knows(entry, by_answers=by_answers)]
    if entries and not left:
        raise UserError(f"earlier: all {len(entries)} prompts of {own.pool} are labelled there; nothing is left to be asked.")
    return left
