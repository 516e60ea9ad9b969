"""`scorer=regex`: whether a pattern is found in a completion."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from alignkit.errors import UserError, check_range
from alignkit.scorers.scorer import TextScorer


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Regex(TextScorer):
    """One number where a pattern is found anywhere in the completion, another where it is not; the prompt does not count."""

    pattern: str
    """A regular expression of Python's `re`, searched for; `(?i)` at its beginning ignores case."""
    found: float
    """The score of a completion that has it."""
    missing: float
    """The score of one that has not."""

    def __post_init__(self) -> None:
        check_range("scorer.found", self.found)
        check_range("scorer.missing", self.missing)
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UserError(
                f"scorer.pattern = {self.pattern!r}; must be a regular expression, but {error}. Try \"scorer.pattern='\\\\bthe end\\\\b'\"."
            ) from None

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        pattern = re.compile(self.pattern)
        return [self.found if pattern.search(completion) else self.missing for completion in completions]
