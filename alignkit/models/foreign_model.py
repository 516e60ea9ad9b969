"""Folders of models that somebody else has made: what their JSON files say beside what a model is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from alignkit.errors import UserError

IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
"""Ends of keys, with and without `_` before and `_internal` after them, that say by what code a layer is computed: to transformers a name
of the hub is code that is fetched and run."""
OWN_IMPLEMENTATIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention", "grouped_mm", "batched_mm")
"""Those that come with transformers."""
CODE = "auto_map"
"""Where a model says that its code is in its folder."""
CHANGES_OF_WEIGHTS = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "VERA", "HRA", "FOURIERFT", "RANDLORA", "DELORA", "MISS")
"""Kinds of adapters that add numbers to weights. Others load tokenizers or further adapters by name, or compile code."""
LONGEST_PATTERN = 300
"""Characters of a regular expression."""


def read_json(path: str, name: str) -> dict[str, Any]:
    """An object in a file of a model's folder or repository; empty where there is none.

    Raises:
        ValueError: when it is something else.
    """
    file = cached_file(path, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
    if file is None:
        return {}
    try:
        given = json.loads(Path(file).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{name} holds values in values without end") from None
    if not isinstance(given, dict):
        raise ValueError(f"{name} is no object")
    return given


def check_model(where: str, path: str) -> None:
    """Refuse a model whose `config.json` chooses code that does not come with transformers.

    Raises:
        UserError: naming the key.
    """
    try:
        config = read_json(path, "config.json")
    except (OSError, ValueError) as error:
        raise UserError(f"{where} = {path!r}: not a model that can be read ({error})") from None
    for key, value in items(config):
        if key.removesuffix("_internal").endswith(IMPLEMENTATIONS) and value is not None and value not in OWN_IMPLEMENTATIONS:
            raise UserError(
                f"{where} = {path!r}: its config.json sets {key}, which may fetch and run code of somebody else's. Remove the key; "
                "alignkit chooses by model.attention."
            )


def code_of(path: str) -> str | None:
    """The module that a model needs from its own folder, where transformers does not know it."""
    try:
        named = read_json(path, "config.json").get(CODE) or read_json(path, "tokenizer_config.json").get(CODE)
    except (OSError, ValueError):
        return None
    return None if not named else str(next(iter(named.values())) if isinstance(named, Mapping) else named)[:100]


def check_adapter(where: str, path: str, config: Mapping[str, Any]) -> None:
    """Refuse an adapter whose `adapter_config.json` asks for more than a change of weights.

    Raises:
        UserError: naming the key.
    """
    opening = f"{where} = {path!r}: its adapter_config.json"
    if config.get("peft_type") not in CHANGES_OF_WEIGHTS:
        kinds = ", ".join(CHANGES_OF_WEIGHTS)
        raise UserError(f"{opening} has peft_type {config.get('peft_type')!r}, which is no change of weights; must be one of {kinds}.")
    if config.get("megatron_config") is not None:
        raise UserError(f"{opening} sets megatron_config, which imports a module that the file names. Remove the key.")
    for key in ("target_modules", "modules_to_save", "exclude_modules", "layers_pattern"):
        pattern = config.get(key)
        if isinstance(pattern, str) and (len(pattern) > LONGEST_PATTERN or repeats_repeats(pattern)):
            raise UserError(f"{opening}: {key} is a regular expression that may search for ever. Write the names of the modules as a list.")


def repeats_repeats(pattern: str) -> bool:
    """Whether a repeated group holds a repetition, `(a+)+`, or more than four `.*` stand in one: matching may take exponential time."""
    depth_of_repeat: list[bool] = []
    for place, character in enumerate(pattern):
        if character == "(":
            depth_of_repeat.append(False)
        elif character == ")" and depth_of_repeat:
            inner = depth_of_repeat.pop()
            if inner and pattern[place + 1 : place + 2] in ("*", "+", "{"):
                return True
            if depth_of_repeat and inner:
                depth_of_repeat[-1] = True
        elif character in "*+{" and depth_of_repeat:
            depth_of_repeat[-1] = True
    return sum(pattern.count(wild) for wild in (".*", ".+", "]*", "]+")) > 4


def items(node: object) -> Iterator[tuple[str, object]]:
    """Keys and values of mappings inside each other, and in lists."""
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            yield from one.items()
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
