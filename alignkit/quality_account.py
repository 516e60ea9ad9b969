"""What checks of a run's data found, with the rows that it is about, and as an object of JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from alignkit.data.origins import find_rows
from alignkit.data.source import load_examples
from alignkit.quality.checking import Quality, check_quality
from alignkit.resolution import build_source
from alignkit.settings import RunSettings


def quality_of(settings: RunSettings, checks: Collection[str], *, suspects: int) -> tuple[Quality, Mapping[int, str]]:
    """Check a run's data; with the rows, as a user finds them, of the training examples that are named.

    Raises:
        UserError: when the data cannot be read.
    """
    source: Any = build_source(settings.dataset, settings.allow_code)
    loaded = load_examples(settings.dataset, source)
    quality = check_quality(loaded, checks, suspects=suspects)
    return quality, find_rows(settings.dataset, source, named(quality))


def named(quality: Quality) -> set[int]:
    """Places of the training examples that the checks name."""
    places = {suspect.example for suspect in quality.suspects}
    if quality.duplicates is not None:
        places.update(place for pair in quality.duplicates.near_examples for place in pair)
        places.update(train for train, _ in quality.duplicates.leaked_examples)
    if quality.contradictions is not None:
        found = quality.contradictions
        places.update(place for group in (*found.opposed_examples, *found.circle_examples) for place in group)
    return places


def account(quality: Quality, places: Mapping[int, str]) -> dict[str, Any]:
    """All of it by field, `rows` as users find them; intervals as value, low and high; null for what is not known."""
    told: dict[str, Any] = plain(dataclasses.asdict(quality))
    for suspect, row in zip(quality.suspects, told["suspects"], strict=True):
        row["row"] = places.get(suspect.example)
    if told["noise"] is not None:
        del told["noise"]["margins"]  # one a comparison
    for check, keys in (("duplicates", ("near_examples",)), ("contradictions", ("opposed_examples", "circle_examples"))):
        for key in keys if told[check] is not None else ():
            told[check][key.replace("examples", "rows")] = [[places.get(place) for place in group] for group in told[check][key]]
    return told


def plain(value: Any) -> Any:
    """A value as JSON has words for it: NaN is null."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items() if key != "left_out"}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
