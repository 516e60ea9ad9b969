"""Held-out pairs whose label most runs contradict: where to look for wrong labels, or for what a reward has not learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from alignkit.analysis.pairs import TEXTS, disputed, held_out_pairs
from alignkit.analysis.runs import RUN, Runs
from alignkit.reporting.numbers import fixed

MOST_PAIRS = 12
LONGEST = 400
"""Characters of a text in the table."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Dispute:
    """A pair, as it is shown."""

    prompt: str
    chosen: str
    rejected: str
    against: str
    """How many runs, of how many."""
    margin: str


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Disputes:
    """What the page tells of single pairs."""

    pairs: int
    """Different held-out pairs."""
    runs: int
    """Runs that kept them."""
    against: int
    """Pairs that more than half of their runs order against the label."""
    shown: tuple[Dispute, ...]


def disputes_of(runs: Runs) -> Disputes:
    """The pairs that runs contradict most of all; of nothing where no run kept pairs."""
    pairs = held_out_pairs(runs)
    if pairs.empty:
        return Disputes(pairs=0, runs=0, against=0, shown=())
    told = disputed(pairs)
    shown = tuple(
        Dispute(
            prompt=ending(row["prompt"]),
            chosen=beginning(row["chosen"]),
            rejected=beginning(row["rejected"]),
            against=f"{row['against']} of {row['runs']}",
            margin=fixed(float(row["margin"]), 2),
        )
        for row in told[:MOST_PAIRS].to_dict("records")
    )
    return Disputes(pairs=len(pairs[TEXTS].drop_duplicates()), runs=pairs[RUN].nunique(), against=len(told), shown=shown)


def beginning(text: str) -> str:
    """A text without the space around it; of a long one what comes first."""
    text = text.strip()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} …"


def ending(text: str) -> str:
    """A text without the space around it; of a long one what comes last, which the completions answer."""
    text = text.strip()
    return text if len(text) <= LONGEST else f"… {text[-LONGEST:]}"
