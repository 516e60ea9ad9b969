"""The answer that an experiment's folder holds: its question, findings, table and figure, to stand at the top of the page."""

from __future__ import annotations

import base64
import csv
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from alignkit.errors import UserError
from alignkit.foreign_files import is_there
from alignkit.markdown import plain
from alignkit.reporting.numbers import fixed, is_number, shown

ANSWER = "answer"
FIGURES = {"figure.svg": "image/svg+xml", "figure.png": "image/png"}
"""The first that is there is shown: lines stay sharp."""
QUESTION_FILES = ("experiment.json", "answer/answer.json")
"""Where a folder may say its question, under the key `question`."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """An answer as it was written down."""

    folder: str
    """The experiment's directory."""
    question: str
    findings: tuple[str, ...]
    """Paragraphs and items of a list."""
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[bool, ...]
    """Of each column whether it holds numbers."""
    figure: str
    """A `data:` address; empty where there is none. Shown as an image, in which scripts do not run and nothing is fetched."""


def read_answer(folder: Path) -> Told | None:
    """The answer in a folder; None where there is none.

    Raises:
        UserError: when a file of it cannot be read.
    """
    place = folder / ANSWER
    if not place.is_dir():
        return None
    try:
        lines = _text(place / "findings.md").splitlines()
        headings, rows = _table(place / "table.csv")
        question = _question(folder) or next((line.lstrip("# ") for line in lines if line.startswith("#")), "")
        told = Told(
            folder=folder.name,
            question=question,
            findings=tuple(_paragraphs([line for line in lines if line.lstrip("# ") != question])),
            headings=headings,
            rows=rows,
            numeric=tuple(
                all(_number(cell.replace(",", "").replace("−", "-") or "0") is not None for cell in column)
                for column in zip(*rows, strict=True)
            ),
            figure=_figure(place),
        )
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{place}: cannot be read ({error}). Type the experiment's command again, which writes it anew.") from None
    return told if told.findings or told.rows or told.figure else None


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if is_there(file) else ""


def _question(folder: Path) -> str:
    """As the experiment kept it."""
    for name in QUESTION_FILES:
        if text := _text(folder / name):
            given = json.loads(text)
            if isinstance(given, dict) and isinstance(given.get("question"), str):
                return str(given["question"])
    return ""


def _paragraphs(lines: Sequence[str]) -> list[str]:
    """Markdown's items and paragraphs as plain texts: an item or an empty line begins a new one."""
    found: list[str] = []
    is_open = False
    for line in lines:
        text = line.strip()
        is_item = text.startswith(("- ", "* "))
        if text and is_open and not is_item:
            found[-1] += f" {text}"
        elif text:
            found.append(text[2:] if is_item else text.lstrip("# "))
        is_open = bool(text)
    return list(map(plain, found))


def _table(file: Path) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """A CSV's heading and rows; numbers with four digits, and with equally many decimals in a column."""
    rows = list(csv.reader(_text(file).splitlines()))
    if not rows:
        return (), ()
    columns = [_column(column) for column in itertools.zip_longest(*rows[1:], fillvalue="")]
    return tuple(rows[0]), tuple(zip(*columns, strict=True))


def _column(cells: Sequence[str]) -> list[str]:
    """A column's cells as they are shown; what is no number stays as it is, and NaN is empty."""
    numbers = [_number(cell) for cell in cells]
    words = [shown(number) for number in numbers if number is not None and is_number(number)]
    if any("e" in word for word in words):
        return [cell if number is None else shown(number) if is_number(number) else "" for cell, number in zip(cells, numbers, strict=True)]
    places = max((len(word.partition(".")[2]) for word in words), default=0)
    return [
        cell if number is None else fixed(number, places) if is_number(number) else "" for cell, number in zip(cells, numbers, strict=True)
    ]


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _figure(place: Path) -> str:
    for name, kind in FIGURES.items():
        if is_there(place / name):
            return f"data:{kind};base64,{base64.b64encode((place / name).read_bytes()).decode('ascii')}"
    return ""
