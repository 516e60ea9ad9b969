"""What encoding made of the examples: of each one, and counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import final

from alignkit.data.examples import EncodedExample


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What encoding made of one example."""

    example: EncodedExample | None = None
    """None where it is left out."""
    reason: str = ""
    """Why it is left out, a key of `dropping.REASONS`; empty where it is not."""
    trimmed: bool = False
    """Whether its prompt lost its oldest tokens."""
    cut: int = 0
    """Completions cut at `max_length`."""
    merged: bool = False
    """Whether the tokenizer merged across the boundary."""


@final
@dataclass(slots=True)
class EncodingReport:
    """What encoding did to the texts, for the user's eyes."""

    dropped: Counter[str] = field(default_factory=Counter)
    """Examples left out, by reason."""
    trimmed_prompts: int = 0
    """Examples whose prompt lost its oldest tokens."""
    cut_completions: int = 0
    """Completions cut at `max_length`; these end without a terminator."""
    boundary_merges: int = 0
    """Examples where the tokenizer merged across the boundary, so that the completion starts a few tokens earlier."""

    def add(self, outcome: Outcome) -> None:
        """Count one example."""
        if outcome.reason:
            self.dropped[outcome.reason] += 1
        self.trimmed_prompts += outcome.trimmed
        self.cut_completions += outcome.cut
        self.boundary_merges += outcome.merged
