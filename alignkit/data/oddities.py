"""What is odd about examples that are kept all the same: counted, so that nobody trains on it unawares."""

from __future__ import annotations

import hashlib
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias, final

from alignkit.data.examples import PreferenceExample

Identity: TypeAlias = tuple[object, tuple[str, ...], tuple[int, ...], tuple[bool, ...]]


@final
class Oddities:
    """Counts them as examples come, with 16 bytes of memory for each."""

    def __init__(self, key: Callable[[Identity], int]) -> None:
        """`key`: 64 bits that stand for an example."""
        self.counts: Counter[str] = Counter()
        self.keys = array("q")
        self.opposites = array("q")
        """Keys of what would contradict an example."""
        self._key = key

    def look(self, example: PreferenceExample) -> None:
        """One more example."""
        self.counts["near_identical"] += are_near_identical(example.completions)
        self.counts["odd_turns"] += has_odd_turns(example)
        identity = (example.prompt, example.completions, example.ranks, example.desirable)
        self.keys.append(self._key(identity))
        other = opposite(identity)
        if other is not None:
            self.opposites.append(self._key(other))

    def add(self, others: Oddities) -> None:
        """Those of other rows of the same table."""
        self.counts.update(others.counts)
        self.keys.extend(others.keys)
        self.opposites.extend(others.opposites)

    def counted(self) -> Counter[str]:
        """Examples by oddity, of those that there are."""
        import numpy as np  # settings are read without it

        keys = np.array(self.keys, dtype=np.int64)
        return +Counter(
            repeated=len(keys) - len(np.unique(keys)),
            contradicting=int(np.isin(keys, np.array(self.opposites, dtype=np.int64)).sum()),
            near_identical=self.counts["near_identical"],
            odd_turns=self.counts["odd_turns"],
        )


def of_this_process(identity: Identity) -> int:
    """A fast key, another one in every process."""
    return hash(identity)


def of_all_processes(identity: Identity) -> int:
    """A key that is the same everywhere."""
    return int.from_bytes(hashlib.sha256(repr(identity).encode()).digest()[:8], "big", signed=True)


def opposite(identity: Identity) -> Identity | None:
    """What says the contrary of a pair or of a labelled answer; None of what has no contrary."""
    prompt, completions, ranks, desirable = identity
    if desirable:
        return prompt, completions, ranks, tuple(not label for label in desirable)
    return (prompt, completions[::-1], ranks[::-1], ()) if len(completions) == 2 else None


def are_near_identical(completions: tuple[str, ...]) -> bool:
    """Whether two completions that stand side by side are one for whoever reads them."""
    return any(_looks(left) == _looks(right) for left, right in pairwise(completions) if _begin_alike(left, right))


def has_odd_turns(example: PreferenceExample) -> bool:
    """Whether a dialogue's turns do not take turns: a system turn may open it, then user and assistant alternate."""
    if isinstance(example.prompt, str):
        return False
    roles = [message.role for message in example.prompt]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    return spoken != ["user" if place % 2 == 0 else "assistant" for place in range(len(spoken))]


def _begin_alike(left: str, right: str) -> bool:
    """Spares nearly all pairs the closer look."""
    return not (left.isascii() and right.isascii()) or left.split(None, 1)[:1] == right.split(None, 1)[:1]


def _looks(text: str) -> list[str]:
    return (text if text.isascii() else unicodedata.normalize("NFC", text)).split()
