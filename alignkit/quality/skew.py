"""What labels go with beside quality: the length of a completion, and its place in the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from alignkit.evaluation.intervals import Interval
from alignkit.quality.clustered import area, clustered_mean, clustered_share
from alignkit.quality.comparisons import Comparison


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LengthSkew:
    """How far length alone tells chosen from rejected. Lengths are characters."""

    source: str
    """Part of a mixture; empty for all of them."""
    comparisons: int
    longer: Interval
    """Share of comparisons where the chosen completion is the longer one; equal lengths count one half."""
    difference: Interval
    """Mean of chosen minus rejected, characters."""
    auc: Interval
    """Of length as a classifier over completions of all prompts; 0.5 says nothing."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PositionSkew:
    """Whether what stands first is preferred."""

    source: str
    comparisons: int
    """Those whose data keep an order that is not the label itself."""
    first: Interval
    """Share where the chosen completion stands first. 1 where a file was sorted by its labels."""


def length_skews(found: Sequence[Comparison]) -> list[LengthSkew]:
    """Of all comparisons, then of each part of a mixture."""
    return [_length_skew(source, part) for source, part in by_source(found)]


def position_skews(found: Sequence[Comparison]) -> list[PositionSkew]:
    """The same of positions, from the comparisons that know theirs; none where no data do: columns called chosen and rejected say nothing
    of what people saw first."""
    known = [one for one in found if one.chosen_first is not None]
    return [
        PositionSkew(
            source=source,
            comparisons=len(part),
            first=clustered_share(np.array([float(bool(one.chosen_first)) for one in part]), np.array([one.prompt for one in part])),
        )
        for source, part in by_source(known)
    ]


def by_source(found: Sequence[Comparison]) -> list[tuple[str, list[Comparison]]]:
    """All comparisons under an empty name, and those of each part of a mixture under its own."""
    parts = {source: [one for one in found if one.source == source] for source in sorted({one.source for one in found} - {""})}
    return [("", list(found)), *parts.items()] if found else []


def _length_skew(source: str, part: Sequence[Comparison]) -> LengthSkew:
    chosen, rejected = (
        np.array([float(len(text)) for text in side]) for side in zip(*((one.chosen, one.rejected) for one in part), strict=True)
    )
    prompts = np.array([one.prompt for one in part])
    return LengthSkew(
        source=source,
        comparisons=len(part),
        longer=clustered_share((1 + np.sign(chosen - rejected)) / 2, prompts),
        difference=clustered_mean(chosen - rejected, prompts),
        auc=area(chosen, rejected, prompts),
    )
