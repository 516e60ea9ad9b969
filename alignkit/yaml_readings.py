"""YAML files that say something else than the one who wrote them meant.

YAML 1.1 keeps the last of two equal keys, makes the key `no` false, `010` eight and `1:30` ninety; a mark before the first line hides
Hydra's header in it. None of that is ever meant in a config, and none of it is an error to the libraries that read it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import yaml

from alignkit.errors import UserError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MISSING = "???"
CORE = "tag:yaml.org,2002:"
WORD = f"{CORE}str"
OTHER_BASE = re.compile(r"[-+]?0[0-9_]+|[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+")
"""Numbers that YAML reads to another base than ten."""


@final
@dataclass(slots=True)
class Unfinished:
    """A mapping or list whose end has not come yet."""

    is_mapping: bool
    keys: dict[str, int] = field(default_factory=dict)
    """Of a mapping, with their lines."""
    key: str | None = None
    """Of a mapping, the one whose value comes next."""


def check_readings(file: Path, text: str, *, whole: bool = True) -> None:
    """Refuse a file, known to be YAML, that is no mapping of plain values, or that is read otherwise than it was meant.

    The values of a `whole` file may be left to the command line, as `???`; another is laid over files that have values, where `???`
    would have no effect.

    Raises:
        UserError: naming the file and line.
    """
    with file.open("rb") as content:
        if content.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK:
            raise UserError(f"{file}:1: begins with a byte order mark, behind which Hydra sees no header. Save it as UTF-8 without one.")
    for line, problem in problems(text, whole=whole):
        raise UserError(f"{file}:{line}: {problem}")


def problems(text: str, *, whole: bool) -> Iterator[tuple[int, str]]:
    """What may surprise, and in which line."""
    documents, unfinished = 0, list[Unfinished]()
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                yield line, "a second document begins. Leave one of them."
        if isinstance(event, yaml.CollectionEndEvent):
            unfinished.pop()
        if not isinstance(event, yaml.NodeEvent):
            continue
        inside = unfinished[-1] if unfinished else None
        for problem in node_problems(event, inside, line, whole=whole):
            yield line, problem
        if isinstance(event, yaml.CollectionStartEvent):
            unfinished.append(Unfinished(is_mapping=isinstance(event, yaml.MappingStartEvent)))


def node_problems(event: yaml.NodeEvent, inside: Unfinished | None, line: int, *, whole: bool) -> Iterator[str]:
    """What may surprise in a key or value, of which a mapping keeps account."""
    tag = getattr(event, "tag", None)
    if tag is not None:
        yield f"tags ({str(tag).replace(CORE, '!!')}) are not read. Write the value without one."
    if inside is not None and inside.is_mapping and inside.key is None:
        if not isinstance(event, yaml.ScalarEvent):
            yield "a key must be a word."
            return
        inside.key = event.value
        yield from key_problems(event, inside.keys)
        inside.keys[event.value] = line
        return
    if isinstance(event, yaml.ScalarEvent):
        yield from value_problems(event, "" if inside is None else inside.key or "", whole=whole)
    if inside is None and not (isinstance(event, yaml.MappingStartEvent) or getattr(event, "value", None) in ("", "null", "~")):
        yield "must hold keys with values, e.g. `seed: 1`."
    if inside is not None:
        inside.key = None


def key_problems(event: yaml.ScalarEvent, keys: dict[str, int]) -> Iterator[str]:
    """What may surprise in a key, after those of the same mapping that came before, with their lines."""
    key = event.value
    kind = meaning(event)
    if kind != WORD:
        yield f"the key {key} is read as {kind.removeprefix(CORE)}, no word. Write another, or '{key}' in quotes."
    if key in keys:
        yield f"found duplicate key {key}; it is in line {keys[key]} already. Leave one of them."


def value_problems(event: yaml.ScalarEvent, key: str, *, whole: bool) -> Iterator[str]:
    """What may surprise in a value that is no mapping and no list."""
    if event.style is None and OTHER_BASE.fullmatch(event.value):
        try:
            number = yaml.SafeLoader("").construct_yaml_int(yaml.ScalarNode(f"{CORE}int", event.value))
        except ValueError:  # 08 is text
            return
        yield f"{event.value} is read as {number}. Write {number}, or '{event.value}' in quotes for text."
    if event.style is None and event.value == MISSING and not whole:
        yield f"{key}: {MISSING} would leave it as it is. Write a value, or leave the key out."


def meaning(event: yaml.ScalarEvent) -> str:
    """The kind of value that YAML takes it for."""
    resolver: Any = yaml.SafeLoader("")
    return str(resolver.resolve(yaml.ScalarNode, event.value, event.implicit))
