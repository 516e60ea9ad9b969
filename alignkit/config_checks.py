"""What every config is checked for, whatever its groups hold: unknown names and keys, code, secrets."""

from __future__ import annotations

import re
import types
import unicodedata
from collections.abc import Collection, Mapping
from typing import Any

from alignkit.errors import UserError, did_you_mean
from alignkit.redaction import HEX_KEY, SECRET_NAMES, SECRETS
from alignkit.terminal import visible as printable

TARGET = "_target_"
"""Hydra's key for code."""
VARIABLE = re.compile(r"oc\.env\s*:\s*([^,}]*)", re.IGNORECASE)
"""What an interpolation reads of the environment."""
PLAIN_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
OPEN_VARIABLES = re.compile(r"HOME|USER|TMPDIR|SCRATCH|SLURM_\w+")
"""Variables that a file of somebody else's may read."""
TYPED_ONLY: Mapping[str, str] = types.MappingProxyType(
    {
        "allow_code": "whose code is run is for the user to say. If you trust it, type allow_code=[PACKAGE].",
        "run_dir": "where files go is for the user to say. Type run_dir=DIR.",
        "cache_dir": "where files go is for the user to say. Type cache_dir=DIR, or set ALIGNKIT_CACHE.",
    }
)
"""Keys that no file may set but a run's own config.yaml, and why."""
TYPED_ONLY_LINE = re.compile(rf"(?:^|[.@/+~\s])({'|'.join(TYPED_ONLY)})\s*(?:\.[\w.]*)?(?:@[\w.]*)?\s*=")
"""Such a key in an override."""
UNWRITABLE = re.compile(r"[\0\ud800-\udfff]")

Siblings = Mapping[str, Collection[str]]
"""The legal keys of each option of a group, by the option's name."""
NO_SIBLINGS: Siblings = types.MappingProxyType({})


def check_name(what: str, name: str, known: Collection[str]) -> None:
    """Refuse a name that is not one of `known`."""
    if name not in known:
        raise UserError(f"unknown {what} {name!r}; {', '.join(sorted(known)) or 'none'} exist.{did_you_mean(name, known)}")


def check_keys(where: str, given: Collection[str], legal: Collection[str], siblings: Siblings = NO_SIBLINGS, owner: str = "") -> None:
    """Refuse a key that is not legal here, saying whose key it is or which one is near."""
    for key in given:
        if key in legal:
            continue
        path = f"{where}.{key}" if where else key
        others = sorted(name for name, keys in siblings.items() if key in keys)
        if others:
            raise UserError(f"{path}: {owner} has no option {key!r}; {', '.join(others)} {'has' if len(others) == 1 else 'have'} it.")
        raise UserError(f"{path}: no such key.{did_you_mean(key, legal)} {owner or where or 'alignkit'} has {', '.join(legal)}.")


def check_top_keys(raw: Mapping[Any, Any], groups: Collection[str], scalars: Collection[str]) -> None:
    """Refuse a key that no run has; one that belongs inside a group, `beta` for `loss.beta`, is answered with its place."""
    for key in raw:
        homes = [f"{group}.{key}" for group in groups if isinstance(raw.get(group), dict) and key in raw[group]]
        if key not in groups and key not in scalars and homes:
            raise UserError(f"{key}: no such key. Did you mean {' or '.join(homes)}?")
    check_keys("", raw, [*groups, *scalars])


def names_code(text: str) -> bool:
    """Whether Hydra's key for code stands in a text, also as characters that only look like it."""
    return TARGET in unicodedata.normalize("NFKC", text).casefold()


def check_harmless(path: str, value: object) -> None:
    """Refuse what would make a config more than names and values."""
    if names_code(path):
        raise UserError(f"{printable(path)}: configs hold names and values, never code. For your own code see allow_code.")
    if not isinstance(value, str):
        return
    for name in (found.strip() for found in VARIABLE.findall(value)):
        # A name in quotes, or one that is made of other values, could be any.
        if not PLAIN_VARIABLE.fullmatch(name) or SECRET_NAMES.search(name):
            raise UserError(
                f"{printable(path)}: would read a secret into the config, which is saved. Leave it out: tokens are found in the "
                "environment."
            )


def check_file_value(where: str, value: str) -> None:
    """Refuse a value in a file of somebody else's that reads the environment, or an override that only a command line may hold."""
    for name in (found.strip() for found in VARIABLE.findall(value)):
        if not OPEN_VARIABLES.fullmatch(name):
            raise UserError(f"{where}: reads {name!r} of the environment, which a file may not. Type the value on the command line.")
    check_line(where, value)


def check_line(where: str, line: str) -> None:
    """Refuse an override in a file that only a command line may hold."""
    if found := TYPED_ONLY_LINE.search(line):
        raise UserError(f"{where}: {found[1]} is for the command line alone: {TYPED_ONLY[found[1]]}")


def check_no_secret(path: str, value: object) -> None:
    """Refuse access tokens, without repeating them: what is in a config is saved and logged."""
    if isinstance(value, str) and (SECRETS.search(value) or HEX_KEY.fullmatch(value)):
        raise UserError(
            f"{path}: this looks like an access token or password, and configs are saved and logged. Tokens are read from HF_TOKEN and "
            "WANDB_API_KEY, or after `hf auth login` and `wandb login`. If it was real, revoke it: it is in your shell's history."
        )


def check_text(path: str, value: object) -> None:
    """Refuse text that can be part of no path and no UTF-8 file: with a NUL, or bytes of a command line that are no UTF-8.

    Raises:
        UserError: naming the key.
    """
    if isinstance(value, str) and UNWRITABLE.search(value):
        raise UserError(f"{path} = {value!a}; must be UTF-8 text without NUL.")
