"""What a run trains on and is validated on, before it is known whether that is enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from alignkit.data.examples import EncodedExample, PreferenceExample


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Sides:
    """Encoded examples; the encoder's report says what was left out."""

    train: Sequence[EncodedExample]
    validation: list[EncodedExample]
    validation_texts: list[PreferenceExample]
    """The examples of `validation` as text, with the completions that the objective reads."""
    total: int
    """Examples of both sides before any were left out."""
    counts: Mapping[str, int]
    """What the source read and left out."""
