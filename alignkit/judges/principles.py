"""A constitution: principles that answers are criticised, revised and compared by."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import final

import yaml

from alignkit.data.examples import Message
from alignkit.errors import UserError, did_you_mean

PACKAGED = Path(__file__).with_name("constitution.yaml")
"""The one that stands where none is named."""
STRUCTURED = (".yaml", ".yml", ".json")
"""Files that hold a list; any other has one principle a line."""
PLACEHOLDER = re.compile(r"\{[A-Za-z_]\w*\}")
LONGEST_NAME = 60
COMMENT = "#"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Principle:
    """One principle, in the three ways in which it is put (Bai et al. 2022, arXiv:2212.08073, appendix C)."""

    name: str
    """Unique, for files and reports."""
    critique: str
    """Asks for what is wrong with an answer, which is called the answer."""
    revision: str
    """Asks for a better one; the answer is called the text."""
    comparison: str
    """Asks which of two answers follows the principle better."""

    @classmethod
    def of_line(cls, line: str) -> Principle:
        """A principle that is a sentence, such as `Answers should be honest.`, in plain words around it."""
        return cls(
            name=line[:LONGEST_NAME],
            critique=f"Where does the answer not follow this principle? {line}",
            revision=f"Rewrite the text so that it follows this principle: {line}",
            comparison=f"Which answer follows this principle better? {line}",
        )


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Principles:
    """A constitution."""

    all: tuple[Principle, ...]
    """In the order of the file, >= 1."""

    def drawn(self, prompt: str | tuple[Message, ...], seed: int, purpose: str) -> tuple[Principle, ...]:
        """All principles in an order that is a function of seed, prompt and purpose alone: whoever needs several takes the first ones, so
        that none comes twice before all have come. (The authors draw each anew.)"""
        words = prompt if isinstance(prompt, str) else [asdict(turn) for turn in prompt]

        def place(principle: Principle) -> str:
            return hashlib.sha256(json.dumps([seed, purpose, words, principle.name]).encode()).hexdigest()

        return tuple(sorted(self.all, key=place))


def read_constitution(where: str, file: str | None) -> Principles:
    """The principles of a file: in YAML or JSON a list of sentences, or of mappings with `critique`, `revision`, `comparison` and perhaps
    `name`; in any other one sentence a line. None is the packaged one. `where` is the key that names it.

    Raises:
        UserError: when it cannot be read or holds something else.
    """
    path = PACKAGED if file is None else Path(file).expanduser()
    at = f"{where} = {file!r}"
    try:
        text = path.read_text(encoding="utf-8-sig")
        given = yaml.safe_load(text) if path.suffix.lower() in STRUCTURED else sentences(text)
    except OSError as error:
        raise UserError(f"{at}: cannot be read ({error.strerror or error}); must be a file of principles.") from None
    except UnicodeDecodeError:
        raise UserError(f"{at}: is no UTF-8 text; must be a file of principles, one a line, or a list of them in YAML.") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{at}: is no YAML ({' '.join(str(error).split())}).") from None
    if not isinstance(given, list) or not given:
        raise UserError(f"{at}: must hold a list of principles; see {PACKAGED}.")
    principles = [_principle(f"{at}, principle {number}", one, number) for number, one in enumerate(given, 1)]
    names = [principle.name for principle in principles]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{at}: {twice!r} comes twice. Leave one out, or give it another name.")
    return Principles(all=tuple(principles))


def sentences(text: str) -> list[str]:
    """One principle a line; empty lines and those that begin with # are none."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(COMMENT)]


def _principle(where: str, given: object, number: int) -> Principle:
    if isinstance(given, str) and given.strip():
        principle = Principle.of_line(" ".join(given.split()))
    elif isinstance(given, Mapping):
        principle = Principle(**_filled(where, given, number))
    else:
        raise UserError(f"{where} = {given!r}; must be a sentence, or have critique, revision and comparison.")
    for field in fields(principle):
        if found := PLACEHOLDER.search(getattr(principle, field.name)):
            raise UserError(f"{where}: {field.name} holds {found[0]}, which is for the template of a judge. Write it without braces.")
    return principle


def _filled(where: str, given: Mapping[object, object], number: int) -> dict[str, str]:
    keys = [field.name for field in fields(Principle)]
    for key in given:
        if key not in keys:
            raise UserError(f"{where}: no such key {key!r}.{did_you_mean(str(key), keys)} A principle has {', '.join(keys)}.")
    values: dict[object, object] = {"name": f"principle {number}", **given}
    for key in keys:
        value = values.get(key)
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{where}: {key} = {value!r}; must be text.")
    return {key: " ".join(str(values[key]).split()) for key in keys}
