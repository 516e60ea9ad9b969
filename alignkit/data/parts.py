"""Data sets within a mixture: their settings, and errors that name them as a user types them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from alignkit.errors import UserError, check_range
from alignkit.settings import DatasetSettings

EXAMPLE = "'dataset.parts={helpful: {source: local, path: a.jsonl}, harmless: {source: hh_rlhf, weight: 0.5}}'"
OF_THE_WHOLE = ("format", "max_length", "overflow", "streaming")
"""Settings of a mixture that its parts cannot have: all texts are encoded and kept alike."""
INHERITED = (*OF_THE_WHOLE, "train_examples", "validation_examples", "max_dropped")
"""Settings that a part has from its mixture where it has none of its own."""
DATASET_KEYS = tuple(field.name for field in dataclasses.fields(DatasetSettings) if field.name != "options")
"""What every data set has; its other keys are options of its source."""

Settings = Callable[[Mapping[str, Any], Sequence[str]], DatasetSettings]
Build = Callable[[DatasetSettings, Sequence[str]], object]


def checked_parts(
    parts: object,
    whole: Mapping[str, Any],
    known: Mapping[str, Mapping[str, Any]],
    settings: Settings,
    build: Build,
    allow_code: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """`dataset.parts`, each with the values of its source's own file and of the mixture where none was typed.

    `whole` is what was typed of the mixture, `known` are the options of each source. `settings` checks a data set's keys, `build` its
    source.

    Raises:
        UserError: when there are none, one names no source, or has an option that its source does not have.
    """
    if not isinstance(parts, Mapping) or not parts:
        raise UserError(f"dataset.parts = {parts!r}; must name the data sets to mix. Try {EXAMPLE}.")
    filled = {}
    for name, given in parts.items():
        where = f"dataset.parts.{name}"
        if not re.fullmatch(r"[A-Za-z]\w*", str(name)):
            raise UserError(f"{where}: a part's name must be letters, digits and '_': losses and metrics call it by that.")
        if not isinstance(given, Mapping) or "source" not in given:
            raise UserError(f"{where} = {given!r}; must say which source it is. Try {EXAMPLE}.")
        source = str(given["source"])
        if "parts" in known.get(source, {}):
            raise UserError(f"{where}.source = {source!r}; a mixture cannot be a part of a mixture. Name its parts beside this one.")
        for key in ("name", *OF_THE_WHOLE):
            if key in given:
                raise UserError(f"{where}.{key}: no such key. It is the same for all parts: dataset.{key}={given[key]}.")
        own = {key: value for key, value in given.items() if key != "weight"}
        weight = given.get("weight", 1.0)
        check_range(f"{where}.weight", weight, above=0.0, hint="It is how often an epoch visits each example. Leave a part out for never.")
        common = {key: whole[key] for key in INHERITED if key in whole}
        with naming_part(str(name), own):
            checked = settings({"name": source, **known.get(source, {}), **common, **own}, allow_code)
            build(checked, allow_code)
        values = dataclasses.asdict(checked)
        kept = {key: values[key] for key in DATASET_KEYS if key not in ("name", *OF_THE_WHOLE)}
        filled[str(name)] = {"weight": float(weight), **kept, **checked.options}
    return filled


def part_settings(given: Mapping[str, Any], whole: DatasetSettings) -> DatasetSettings:
    """The settings of a part that was checked, as a data set of its own."""
    own = {key: given[key] for key in DATASET_KEYS if key in given}
    options = {key: value for key, value in given.items() if key not in (*DATASET_KEYS, "weight")}
    return dataclasses.replace(whole, **own, name=given["source"], options=options)


def check_kinds(is_text: Mapping[str, bool], format: str, where: str = "dataset.parts") -> None:
    """Refuse plain texts beside chats where a chat template would write only the chats: they end with different tokens.

    `where` is the setting that names the parts.

    Raises:
        UserError: naming the parts of each kind.
    """
    if format == "auto" and len(set(is_text.values())) > 1:
        texts = ", ".join(name for name, text in is_text.items() if text)
        chats = ", ".join(name for name, text in is_text.items() if not text)
        raise UserError(
            f"{where}: {texts} holds plain text, and {chats} chat messages; with dataset.format=auto all parts must be of one kind. "
            "Type dataset.format=chat (a text is a user's turn) or dataset.format=text (no chat template)."
        )


def none_drawn(name: str, weight: float, examples: int) -> str:
    """What is said of a part of which a weight leaves nothing."""
    return f"dataset.parts.{name}.weight = {weight:g} leaves none of its {examples} examples to train on. Try 1."


@contextmanager
def naming_part(name: str, given: Mapping[str, Any]) -> Iterator[None]:
    """What an error calls `dataset.path` is the path of this part. `given` are its own keys."""
    keys = "|".join(map(re.escape, {*DATASET_KEYS, *given}))
    try:
        yield
    except UserError as error:
        message = re.sub(rf"(?<![\w/.-])dataset\.(?=({keys})\b)", f"dataset.parts.{name}.", str(error))
        message = re.sub(r"(?<![\w/.-])dataset=(?=\w)", f"dataset.parts.{name}.source=", message)
        raise UserError(message) from error
