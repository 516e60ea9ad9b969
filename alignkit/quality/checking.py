"""All checks of a data set, or some of them, as one record."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from alignkit.data.examples import PreferenceExample
from alignkit.data.source import LoadedExamples
from alignkit.quality.comparisons import Comparison, comparisons
from alignkit.quality.contradictions import Contradictions, contradictions
from alignkit.quality.duplicates import Duplicates, duplicates
from alignkit.quality.noise import Noise, noise_of
from alignkit.quality.skew import LengthSkew, PositionSkew, length_skews, position_skews


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Suspect:
    """A training comparison that is likely to be labelled wrongly."""

    example: int
    """Place among the training examples."""
    prompt: str
    chosen: str
    rejected: str
    source: str
    chance: float
    """That the label is right, as the model sees it."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """What was found; None where it was not asked for, or where no completion is preferred to another one."""

    examples: int
    comparisons: int
    identical: int
    """Examples that were left out because chosen and rejected are the same."""
    duplicates: Duplicates | None = None
    contradictions: Contradictions | None = None
    lengths: tuple[LengthSkew, ...] | None = None
    positions: tuple[PositionSkew, ...] | None = None
    noise: Noise | None = None
    suspects: tuple[Suspect, ...] = ()


def check_quality(loaded: LoadedExamples, checks: Collection[str], *, suspects: int) -> Quality:
    """Look at the training examples; at the held-out ones only for prompts that are near to those.

    Args:
        checks: some of `names.CHECKS`.
        suspects: how many of the most suspicious comparisons are named.
    """
    found = comparisons(loaded.train)
    labels = found or None
    noise = noise_of(found) if "noise" in checks and labels else None
    return Quality(
        examples=len(loaded.train),
        comparisons=len(found),
        identical=loaded.counts.get("identical", 0),
        duplicates=duplicates(loaded.train, loaded.validation) if "duplicates" in checks else None,
        contradictions=contradictions(found) if "contradictions" in checks and labels else None,
        lengths=tuple(length_skews(found)) if "length" in checks and labels else None,
        positions=tuple(position_skews(found)) if "position" in checks and labels else None,
        noise=noise,
        suspects=most_suspicious(found, noise, loaded.train, suspects) if noise is not None and noise.tells else (),
    )


def most_suspicious(found: Sequence[Comparison], noise: Noise, examples: Sequence[PreferenceExample], count: int) -> tuple[Suspect, ...]:
    """Those whose labels the model holds for the least likely."""
    order = np.argsort(noise.margins, kind="stable")[:count]
    return tuple(
        Suspect(
            example=one.example,
            prompt=last_turn(examples[one.example]),
            chosen=one.chosen,
            rejected=one.rejected,
            source=one.source,
            chance=float(1 / (1 + np.exp(-noise.margins[place]))),
        )
        for place in order
        for one in (found[place],)
    )


def last_turn(example: PreferenceExample) -> str:
    """What the completions answer."""
    return example.prompt if isinstance(example.prompt, str) else example.prompt[-1].content
