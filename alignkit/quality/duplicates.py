"""Prompts that are there more than once, letter by letter or nearly, within the training data and across to the held-out ones."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

from datasketch import MinHash, MinHashLSH  # type: ignore[import-untyped]

from alignkit.data.examples import PreferenceExample
from alignkit.data.holdout import prompt_key

WORDS = 3
"""Of a shingle: neighbouring words that are looked up together."""
NEAR = 0.8
"""Jaccard similarity of two sets of shingles from which on prompts are near to each other; Lee et al. 2022 (arXiv:2107.06499) take 0.8."""
PERMUTATIONS = 64
WEIGHTS = (0.1, 0.9)
"""Of false and of missed candidates: candidates are checked, so that missing one is what costs."""
MOST_CANDIDATES = 50
"""That one prompt is compared with, so that time grows with the prompts; what is near to more than so many is near to one of them."""
MOST_SHOWN = 5


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicates:
    """How many prompts say the same."""

    prompts: int
    """Different ones to train on."""
    repeated: int
    """Training examples whose prompt an earlier one has too, letter by letter: usual where prompts have several pairs."""
    near: int
    """Different training prompts that are near to an earlier one."""
    held_out: int
    """Different held-out prompts."""
    leaked: int
    """Of these, the ones that are near to a training prompt: no prompt is on both sides letter by letter."""
    near_examples: tuple[tuple[int, int], ...]
    """Of the first ones, the places of the earlier and of the later training example."""
    leaked_examples: tuple[tuple[int, int], ...]
    """Of the first ones, the places of the training and of the held-out example."""


def duplicates(train: Sequence[PreferenceExample], held_out: Sequence[PreferenceExample]) -> Duplicates:
    """Near prompts by MinHash and locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of Massive Datasets, chapter 3), every
    candidate checked by its exact similarity. Time grows with the words; a few near ones are missed by chance (at 0.8 about 1 in 1,000)."""
    first = _first_places(train)
    index = _Index()
    near = [(found, place) for place in first.values() if (found := index.near(shingles(train[place]), place)) is not None]
    looked_up = _first_places(held_out)
    leaked = [(found, place) for place in looked_up.values() if (found := index.near(shingles(held_out[place]), None)) is not None]
    return Duplicates(
        prompts=len(first),
        repeated=len(train) - len(first),
        near=len(near),
        held_out=len(looked_up),
        leaked=len(leaked),
        near_examples=tuple(near[:MOST_SHOWN]),
        leaked_examples=tuple(leaked[:MOST_SHOWN]),
    )


def shingles(example: PreferenceExample) -> frozenset[int]:
    """CRC-32 of each `WORDS` neighbouring words of a prompt, in lower case; of a shorter one that of all it has.

    System messages are left out: all prompts of a data set may share one.
    """
    turns = [example.prompt] if isinstance(example.prompt, str) else [turn.content for turn in example.prompt if turn.role != "system"]
    words = re.findall(r"\w+|[^\w\s]", "\n".join(turns).lower())
    return frozenset(
        zlib.crc32(" ".join(words[start : start + WORDS]).encode("utf-8", "replace")) for start in range(max(1, len(words) - WORDS + 1))
    )


def similarity(one: frozenset[int], other: frozenset[int]) -> float:
    """Jaccard: what two sets share, over what either has."""
    return len(one & other) / len(one | other)


class _Index:
    """Prompts that were seen."""

    def __init__(self) -> None:
        self._lsh = MinHashLSH(threshold=NEAR, num_perm=PERMUTATIONS, weights=WEIGHTS)
        self._known: dict[int, frozenset[int]] = {}
        self._empty = MinHash(num_perm=PERMUTATIONS, hashfunc=_as_it_is)

    def near(self, own: frozenset[int], place: int | None) -> int | None:
        """The first prompt that is near among those seen; then this one is seen too, unless `place` is None."""
        sketch = self._empty.copy()
        sketch.update_batch(list(own))
        candidates: Iterable[int] = sorted(self._lsh.query(sketch))[:MOST_CANDIDATES]
        found = next((other for other in candidates if similarity(own, self._known[other]) >= NEAR), None)
        if place is not None:
            self._known[place] = own
            self._lsh.insert(place, sketch, check_duplication=False)
        return found


def _as_it_is(value: int) -> int:
    return value


def _first_places(examples: Sequence[PreferenceExample]) -> dict[str, int]:
    """Each different prompt and the first example that has it. Examples without a prompt have none to compare."""
    first: dict[str, int] = {}
    for place, example in enumerate(examples):
        if example.prompt:
            first.setdefault(prompt_key(example), place)
    return first
