"""Examples as comparisons of two completions, which is what every check of labels looks at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import final

import numpy as np
from numpy.typing import NDArray

from alignkit.data.examples import PreferenceExample
from alignkit.data.holdout import prompt_key

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@final
@dataclass(frozen=True, slots=True)
class Comparison:
    """One completion that is preferred to another one of its prompt."""

    example: int
    """Place among the examples."""
    prompt: int
    """Number of the prompt: examples with the same one share it."""
    chosen: str
    rejected: str
    source: str
    """Part of a mixture, empty outside of mixtures."""
    chosen_first: bool | None
    """Whether the chosen completion stands before the other one in the data; None where the data say it by their columns."""


def comparisons(examples: Sequence[PreferenceExample]) -> list[Comparison]:
    """Every two completions of an example of which one is preferred; none of demonstrations and of single labelled answers."""
    prompts: dict[str, int] = {}
    found: list[Comparison] = []
    for place, example in enumerate(examples):
        prompt = prompts.setdefault(prompt_key(example), len(prompts))
        for better, worse in ordered(example):
            found.append(
                Comparison(
                    example=place,
                    prompt=prompt,
                    chosen=example.completions[better],
                    rejected=example.completions[worse],
                    source=example.source,
                    # Where ranks say what is best, completions stand as they stood in the data.
                    chosen_first=better < worse if example.ranks else None,
                )
            )
    return found


def ordered(example: PreferenceExample) -> Iterator[tuple[int, int]]:
    """Places of the better and the worse completion of every two that differ in rank."""
    ranks = example.ranks or tuple(range(len(example.completions)))
    for one, other in combinations(range(len(example.completions)), 2):
        if ranks[one] != ranks[other]:
            yield (one, other) if ranks[one] < ranks[other] else (other, one)
