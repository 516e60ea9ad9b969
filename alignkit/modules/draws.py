"""Seeds of what objectives that learn from their own samples draw."""

from __future__ import annotations

from enum import IntEnum
from typing import final


@final
class Stream(IntEnum):
    """What is drawn in an update, each from a seed of its own."""

    SAMPLES = 0
    ORDER = 1
    """Of minibatches."""
    HELD_OUT = 2
    """Samples, of a validation."""

    def seed(self, run_seed: int, step: int) -> int:
        """Of the generator in one step of a run."""
        return ((run_seed * 1_000_003 + step) * len(Stream) + self) % 2**63
