"""Stanford Human Preferences: answers on Reddit, preferred by votes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from alignkit.data.examples import Message, PreferenceExample
from alignkit.data.rows import RowError, number, text
from alignkit.data.source import RowSource
from alignkit.errors import check_range


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SHP(RowSource):
    """`stanfordnlp/SHP`: a post (`history`) and two answers, of which `labels` = 1 prefers A and 0 prefers B.

    Pairs whose better score is less than `min_ratio` times the other are left out. The margin is the difference of the scores, in
    votes. Ethayarajh et al. 2022 (arXiv:2110.08420); the rule is that of the DPO repository.
    """

    COLUMNS: ClassVar[tuple[tuple[str, ...], ...]] = (("history", "human_ref_A", "human_ref_B", "labels", "score_A", "score_B"),)

    min_ratio: float
    """Smallest ratio of the scores, 1 or more; the DPO repository takes 2."""

    def __post_init__(self) -> None:
        check_range("dataset.min_ratio", self.min_ratio, low=1.0, hint="It is the better score over the other; 1 keeps every pair.")

    def to_examples(self, row: Mapping[str, object]) -> list[PreferenceExample]:
        """One pair, or none when the votes are too close."""
        label = number(row, "labels")
        if label not in (0.0, 1.0):
            raise RowError(f"'labels' is {row['labels']!r}; must be 1 (A is preferred) or 0 (B is).")
        sides = ("A", "B") if label == 1.0 else ("B", "A")
        better, worse = (number(row, f"score_{side}") for side in sides)
        if max(better, worse) < self.min_ratio * min(better, worse):
            return []
        chosen, rejected = (text(row, f"human_ref_{side}") for side in sides)
        prompt = (Message(role="user", content=text(row, "history")),)
        return [PreferenceExample(prompt=prompt, completions=(chosen, rejected), margin=better - worse)]
