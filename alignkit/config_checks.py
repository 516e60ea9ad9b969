"""What every config is checked for, whatever its groups hold: unknown names and keys, code, secrets."""

from __future__ import annotations

import re
import types
from collections.abc import Collection, Mapping
from typing import Any

from alignkit.errors import UserError, did_you_mean

SECRETS = re.compile(r"\bhf_[A-Za-z0-9]{30,}|\bsk-[A-Za-z0-9_-]{20,}|\bAKIA[A-Z0-9]{16}\b|^[0-9a-f]{40}$|://[^/\s:@]+:[^/\s@]+@")
"""Access tokens of the hub, of model vendors, of AWS and of W&B, and passwords in URLs."""
SECRET_VARIABLES = re.compile(r"oc\.env:\s*\w*(TOKEN|KEY|SECRET|PASSWORD)", re.IGNORECASE)

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


def check_harmless(path: str, value: object) -> None:
    """Refuse what would make a config more than names and values."""
    if "_target_" in path:
        raise UserError(f"{path}: configs hold names and values, never code. For your own code see allow_code.")
    if isinstance(value, str) and SECRET_VARIABLES.search(value):
        raise UserError(f"{path}: would read a secret into the config, which is saved. Leave it out: tokens are found in the environment.")


def check_no_secret(path: str, value: object) -> None:
    """Refuse access tokens, without repeating them: what is in a config is saved and logged."""
    if isinstance(value, str) and SECRETS.search(value):
        raise UserError(
            f"{path}: this looks like an access token or password, and configs are saved and logged. Tokens are read from HF_TOKEN and "
            "WANDB_API_KEY, or after `hf auth login` and `wandb login`. If it was real, revoke it: it is in your shell's history."
        )
