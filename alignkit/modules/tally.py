"""Means of whatever was added, by name and by count, that outlive a restart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from torch import Tensor

from alignkit.ranks import gather


@final
class Tally:
    """Named sums and counts in double precision. Unlike `CountedMeans` it takes names as they come, and waits for the device."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def add(self, name: str, values: Tensor | float) -> None:
        """Take in values [*], or one."""
        total, count = (float(values.double().sum()), values.numel()) if isinstance(values, Tensor) else (float(values), 1)
        before, counted = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = (before + total, counted + count)

    def take(self) -> dict[str, float]:
        """The mean of each name that had values since the last call, and begin anew."""
        means = {name: total / count for name, (total, count) in self._sums.items() if count}
        self._sums = {}
        return means

    def add_all(self, other: Mapping[str, Sequence[float]]) -> None:
        """Take in the state of another tally."""
        for name, (total, count) in other.items():
            before, counted = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (before + total, counted + count)

    def of_all_ranks(self) -> Tally:
        """The tallies of all ranks as one."""
        everything = Tally()
        for part in gather(self.state()):
            everything.add_all(part)
        return everything

    def state(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {name: list(pair) for name, pair in self._sums.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._sums = {name: (float(total), float(count)) for name, (total, count) in state.items()}
