"""What benchmarks of several choices have in common: how their rows spell a question, and the two ways to ask it."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from alignkit.data.questions import Question
from alignkit.data.rows import DroppedRow, RowError, items, text

Asked: TypeAlias = tuple[str, tuple[str, ...], int]
"""What is asked, K >= 2 options as they stand in the row, and the place of the right one."""

LETTERS = string.ascii_uppercase
NOBODY_SAYS = frozenset({"", "-", "-1", "-1.0"})
"""How rows spell that there is no label, or that annotators did not agree on one."""

FOUNDRY = ("query", "choices", "gold")
"""Columns of llm-foundry's files."""
CSV4 = ("question", "A", "B", "C", "D", "answer")
"""Columns of CSV files in the way of MMLU's."""


def continued(prompt: str, options: Sequence[str], correct: int, *, group: str = "") -> Question:
    """The prompt, and each option after a space.

    That space is scored, and so is white space at the prompt's end, which goes to the candidates: this is where lm-evaluation-harness
    begins a continuation.

    Raises:
        DroppedRow: when an option holds no text.
    """
    bare = prompt.rstrip()
    return _question(bare, [f"{prompt[len(bare) :]} {option}" for option in options], correct, group)


def listed(asked: str, options: Sequence[str], correct: int, *, group: str = "") -> Question:
    """The prompt lists the options by letters and asks for "A. text" (the rendering of arXiv:2405.20053).

    Raises:
        DroppedRow: when an option holds no text.
    """
    lines = [f"{letter}. {option.strip()}" for letter, option in zip(LETTERS, options, strict=False)]
    if not all(option.strip() for option in options):
        raise DroppedRow("empty")
    return _question("\n".join([asked, *lines, "Answer:"]), [f" {line}" for line in lines], correct, group)


def _question(prompt: str, candidates: Sequence[str], correct: int, group: str) -> Question:
    if not all(candidate.strip() for candidate in candidates):
        raise DroppedRow("empty")
    return Question(prompt=prompt, candidates=tuple(candidates), correct=(correct,), group=group)


def numbered(row: Mapping[str, object], column: str, names: Sequence[str]) -> int:
    """The class in a column, told by its number from 0 or by its name; in CSV files numbers are text.

    Raises:
        RowError: when it is another one.
        DroppedRow: when nobody says.
    """
    value = _said(row, column)
    words = [name.casefold() for name in names]
    if value in words:
        return words.index(value)
    if value.removesuffix(".0") in map(str, range(len(names))):  # a column with gaps holds 1 as 1.0
        return int(float(value))
    raise RowError(f"'{column}' is {row[column]!r}; must be one of {', '.join(names)}, or its number from 0.")


def named(row: Mapping[str, object], column: str, names: Sequence[str]) -> int:
    """The class in a column that is told by its name only, which may look like a number: options called 1 to 4.

    Raises:
        RowError: when it is another one.
        DroppedRow: when nobody says.
    """
    value = _said(row, column)
    words = [name.casefold() for name in names]
    if value not in words:
        raise RowError(f"'{column}' is {row[column]!r}; must be one of {', '.join(names)}.")
    return words.index(value)


def _said(row: Mapping[str, object], column: str) -> str:
    if column not in row:
        raise RowError(f"'{column}' is missing; every row needs it, null where there is no label.")
    value = row[column]
    word = "" if value is None else str(value).strip().casefold()
    if word in NOBODY_SAYS:
        raise DroppedRow("no_answer")
    return word


def texts(row: Mapping[str, object], column: str) -> tuple[str, ...]:
    """At least two texts in a list.

    Raises:
        RowError: when it is another list, or none.
    """
    elements = {f"{column}, element {place}": element for place, element in enumerate(items(row, column), start=1)}
    if len(elements) < 2:
        raise RowError(f"'{column}' holds one element; must hold at least two options.")
    return tuple(text(elements, name) for name in elements)


def from_foundry(row: Mapping[str, object], *, before: str = "") -> Asked:
    """A row of llm-foundry's evaluation files, which put `before` before what the benchmark itself asks, and some a line break after it.

        {"query": "Question: 1+1?", "choices": ["3", "2"], "gold": 1}

    Raises:
        RowError: when it is not of this form.
        DroppedRow: when it has no label.
    """
    options = texts(row, "choices")
    return text(row, "query").removeprefix(before).removesuffix("\n"), options, numbered(row, "gold", LETTERS[: len(options)])


def from_csv4(row: Mapping[str, object]) -> Asked:
    """A row with one column an option; a question with fewer than four leaves the last ones empty.

        {"question": "1+1?", "A": "3", "B": "2", "C": "4", "D": "", "answer": "B"}

    Raises:
        RowError: when it is not of this form.
        DroppedRow: when it has no label.
    """
    columns = list(CSV4[1:-1])
    while len(columns) > 2 and not str(row.get(columns[-1]) or "").strip():
        columns.pop()
    return text(row, "question"), tuple(text(row, column) for column in columns), numbered(row, "answer", columns)


def from_ai2(row: Mapping[str, object], *, stem: str) -> Asked:
    """A row of AI2's benchmarks: on the hub, with the question in column `stem`, or in their own files.

        {"question_stem": "1+1?", "choices": {"text": ["3", "2"], "label": ["A", "B"]}, "answerKey": "B"}
        {"question": {"stem": "1+1?", "choices": [{"text": "3", "label": "A"}, {"text": "2", "label": "B"}]}, "answerKey": "B"}

    Raises:
        RowError: when it is not of this form.
        DroppedRow: when it has no label.
    """
    nested = row.get("question")
    inside, stem = (nested, "stem") if isinstance(nested, Mapping) else (row, stem)
    choices = inside.get("choices")
    if isinstance(choices, list) and all(isinstance(choice, Mapping) for choice in choices):
        choices = {key: [choice.get(key) for choice in choices] for key in ("text", "label")}
    if not isinstance(choices, Mapping):
        raise RowError(f"'choices' is {choices!r}; must hold the texts and the labels of the options.")
    options, labels = texts(choices, "text"), texts(choices, "label")
    if len(options) != len(labels):
        raise RowError(f"'choices' holds {len(options)} texts and {len(labels)} labels; must hold a label for each text.")
    return text(inside, stem), options, named(row, "answerKey", labels)


def without_repeats(asked: Asked) -> Asked:
    """Without options that repeat an earlier one: files that want four of each question fill up so.

    Raises:
        DroppedRow: when there is but one.
    """
    question, options, correct = asked
    distinct = tuple(dict.fromkeys(options))
    if len(distinct) < 2:
        raise DroppedRow("identical")
    return question, distinct, distinct.index(options[correct])
