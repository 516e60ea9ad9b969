"""Configs that an older version wrote: keys that have come since take the values of the packaged files, which change no older run.

A new key must have a default under which a run computes what it computed without the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from alignkit.configuration import conf_dir, packaged
from alignkit.resolution import PARTS

CHOSEN_BY = ("name", "source")
"""Keys of a group that say which of its options it was."""
NOT_KEPT = ("defaults", "hydra")
"""Of `train.yaml`, what no run's config has."""


def completed(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A run's config with all keys that a run has now, and the dotted keys that it lacked. What it has is left as it is."""
    root = yaml.safe_load((conf_dir() / "train.yaml").read_text(encoding="utf-8"))
    chosen = {group: option for line in root["defaults"] if isinstance(line, dict) for group, option in line.items() if option}
    values: dict[str, Any] = {key: value for key, value in root.items() if key not in NOT_KEPT}
    for group, option in chosen.items():
        options, own = packaged(group), config.get(group)
        names = [str(own.get(key)) for key in CHOSEN_BY] if isinstance(own, Mapping) else [option]
        # Options of the user's own, and code from elsewhere, are nobody's older version.
        if known := next((name for name in names if name in options), None):
            values[group] = {key: value for key, value in options[known].items() if key != "defaults"}
    lacking: list[str] = []
    return filled(config, values, "", lacking), lacking


def filled(given: Mapping[str, Any], defaults: Mapping[str, Any], where: str, lacking: list[str]) -> dict[str, Any]:
    """`given` and what it lacks of `defaults`, mapping by mapping; the dotted names of what was lacking are added to a list."""
    whole = dict(given)
    for key, value in defaults.items():
        if key not in whole:
            lacking.append(f"{where}{key}")
            whole[key] = value
        elif isinstance(value, Mapping) and isinstance(whole[key], Mapping) and key != PARTS:
            whole[key] = filled(whole[key], value, f"{where}{key}.", lacking)
    return whole
