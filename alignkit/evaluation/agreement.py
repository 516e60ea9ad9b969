"""Whether judges agree: by chance they do, too.   U units   J judges"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

Label = Hashable | None
"""What a judge says of a unit; None where nothing is known."""


def raw_agreement(one: Sequence[Label], other: Sequence[Label]) -> float:
    """The share of units [U] of which two judges say the same, of those that both speak about; NaN of none."""
    both = _both(one, other)
    return sum(left == right for left, right in both) / len(both) if both else math.nan


def cohen_kappa(one: Sequence[Label], other: Sequence[Label]) -> float:
    """Agreement of two judges beyond chance, over the units [U] that both speak about.

        (p_o - p_e) / (1 - p_e)      p_o: share agreed on;  p_e: sum over labels of the product of both judges' shares

    1 is full agreement, 0 what judges with these shares reach by chance. NaN where both say one and the same of everything, or nothing.
    Cohen 1960.
    """
    both = _both(one, other)
    if not both:
        return math.nan
    lefts, rights = Counter(left for left, _ in both), Counter(right for _, right in both)
    chance = sum(count * rights[label] for label, count in lefts.items()) / len(both) ** 2
    return (raw_agreement(one, other) - chance) / (1 - chance) if chance < 1 else math.nan


def krippendorff_alpha(said: Sequence[Sequence[Label]]) -> float:
    """Agreement of all J judges, each of whom says a label, or None, of U units: [J][U].

        1 - D_o / D_e        D_o = 1/n sum_u (pairs of different labels in u) / (m_u - 1)
                             D_e = (pairs of different labels in all) / (n (n - 1))

    over units with m_u >= 2 labels and their n labels, pairs ordered. Judges who are silent on some units are no hindrance, which is why
    this and not Fleiss' kappa. NaN where all labels are the same, or no unit has two. Krippendorff 2011, nominal data.
    """
    units = [Counter(label for label in labels if label is not None) for labels in zip(*said, strict=True)]
    units = [unit for unit in units if unit.total() >= 2]
    every = sum(units, Counter[Hashable]())
    count = every.total()
    expected = _different(every) / (count * (count - 1)) if count else 0.0
    observed = sum(_different(unit) / (unit.total() - 1) for unit in units) / count if count else 0.0
    return 1 - observed / expected if expected else math.nan


def _both(one: Sequence[Label], other: Sequence[Label]) -> list[tuple[Hashable, Hashable]]:
    return [(left, right) for left, right in zip(one, other, strict=True) if left is not None and right is not None]


def _different(labels: Counter[Hashable]) -> int:
    """Ordered pairs of labels that are not the same."""
    return labels.total() ** 2 - sum(count**2 for count in labels.values())
