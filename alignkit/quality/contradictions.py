"""Labels that cannot all be right: the same two completions in both orders, and circles."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import final

from alignkit.quality.comparisons import Comparison

MOST_SHOWN = 5


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Contradictions:
    """What comparisons of the same texts say of each other."""

    comparisons: int
    distinct: int
    """Different pairs of completions of a prompt."""
    repeated: int
    """Comparisons that say once more what another one has said."""
    opposed: int
    """Distinct pairs that are there in both orders."""
    opposed_comparisons: int
    """Comparisons of these."""
    compared_again: int
    """Distinct pairs that were compared more than once: of which `opposed` could be found at all."""
    circles: int
    """Prompts whose comparisons, without the opposed ones, hold a circle a > b > c > a."""
    opposed_examples: tuple[tuple[int, int], ...]
    """Of the first opposed pairs, the places of an example of either order."""
    circle_examples: tuple[tuple[int, ...], ...]
    """Of the first circles, the places of the examples that make it."""


def contradictions(found: Sequence[Comparison]) -> Contradictions:
    """Compares texts exactly, prompt by prompt; time grows with the comparisons."""
    orders: dict[int, dict[tuple[str, str], list[int]]] = defaultdict(lambda: defaultdict(list))
    for one in found:
        orders[one.prompt][one.chosen, one.rejected].append(one.example)
    distinct = repeated = opposed = opposed_comparisons = again = circles = 0
    opposed_examples: list[tuple[int, int]] = []
    circle_examples: list[tuple[int, ...]] = []
    for of_prompt in orders.values():
        settled: dict[tuple[str, str], int] = {}
        for (chosen, rejected), places in of_prompt.items():
            repeated += len(places) - 1
            against = of_prompt.get((rejected, chosen), [])
            if not against or chosen < rejected:
                distinct += 1
                again += len(places) + len(against) > 1
            if not against:
                settled[chosen, rejected] = places[0]
            elif chosen < rejected:
                opposed += 1
                opposed_comparisons += len(places) + len(against)
                opposed_examples.append((places[0], against[0]))
        circle = circle_in(list(settled))
        if circle:
            circles += 1
            circle_examples.append(tuple(dict.fromkeys(settled[edge] for edge in circle)))
    return Contradictions(
        comparisons=len(found),
        distinct=distinct,
        repeated=repeated,
        opposed=opposed,
        opposed_comparisons=opposed_comparisons,
        compared_again=again,
        circles=circles,
        opposed_examples=tuple(opposed_examples[:MOST_SHOWN]),
        circle_examples=tuple(circle_examples[:MOST_SHOWN]),
    )


def circle_in(edges: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The edges (better, worse) of one circle; none where a ranking agrees with all of them."""
    if len(edges) < 3:  # two completions are opposed, and no circle
        return []
    below: dict[str, set[str]] = defaultdict(set)
    for better, worse in edges:
        below[better].add(worse)
    try:
        TopologicalSorter(below).prepare()
    except CycleError as error:
        nodes: list[str] = error.args[1]  # each is a predecessor of the next: worse than it
        return [(nodes[place + 1], nodes[place]) for place in range(len(nodes) - 1)]
    return []
