"""What sways a judge beside how good answers are: the order in which they are shown, and their lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from alignkit.evaluation.intervals import Interval, wilson
from alignkit.judges.bouts import Verdict
from alignkit.judges.judge import Comparison, Judgement
from alignkit.judges.standings import comparisons_of


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Biases:
    """Counts of comparisons, and what follows from them."""

    comparisons: int
    """Pairs of answers that were compared; of a judge that scores single answers, all pairs of them."""
    read: int
    """Of these, those with a verdict."""
    ties: int
    """Of those read, the ties, whatever made them so."""
    asked_twice: int
    """Of those read, those that were asked in both orders: 0 of a judge that scores single answers, and of a vote, which know no order."""
    flipped_to_first: int
    """Of `asked_twice`, those in which whichever answer was shown first was preferred: the order alone decided."""
    flipped_to_second: int
    """Likewise for whichever was shown second."""
    wavered: int
    """Of `asked_twice`, those that were a tie in one order and none in the other."""
    shown: int
    """Replies, one for each order, that preferred one of the answers."""
    shown_first: int
    """Of `shown`, those that preferred the answer that was shown first."""
    decided: int
    """Verdicts that prefer one of two answers of different lengths."""
    longer: int
    """Of `decided`, those that prefer the longer one."""
    correlation: float
    """Of verdict and length: Pearson's, of the credit of an answer with the tokens that it has more than the other, each comparison
    counted from both sides. NaN where no verdict or no length differs."""
    labelled: int
    """Of `decided`, those of which the people's preference is known."""
    longer_labelled: int
    """Of `labelled`, those in which the judge prefers the longer answer."""
    longer_of_people: int
    """Of `labelled`, those in which people do."""

    @property
    def first_preferred(self) -> Interval:
        """How often the answer that is shown first wins, of replies that prefer one: 0.5 is no position bias."""
        return wilson(self.shown_first, self.shown)

    @property
    def flips(self) -> Interval:
        """How often the order turned a win into a loss or a tie."""
        return wilson(self.flipped_to_first + self.flipped_to_second + self.wavered, self.asked_twice)

    @property
    def longer_preferred(self) -> Interval:
        """How often the longer answer wins. Longer answers may be better: see `beyond_people`."""
        return wilson(self.longer, self.decided)

    @property
    def beyond_people(self) -> float:
        """By how much more often the judge prefers the longer answer than people do of the same pairs; NaN without labels."""
        return (self.longer_labelled - self.longer_of_people) / self.labelled if self.labelled else math.nan


def biases_of(judgements: Sequence[Judgement], lengths: Sequence[Sequence[int]], preferred: Sequence[int | None] | None = None) -> Biases:
    """Position and length bias of a judge.

    Args:
        judgements: P of one judge.
        lengths: P times M, tokens of the answers, their ends included or not.
        preferred: P places of the answers that people like best; None for those that are not known, or for all.
    """
    found = [(place, one) for place, judgement in enumerate(judgements) for one in comparisons_of(judgement)]
    read = [(place, one, verdict) for place, one in found if (verdict := one.verdict) is not None]
    twice = [one for place, one, _ in read if _knows_order(judgements[place])]
    # On the answer that was shown first, of each order that was read.
    shown = [verdict for place, one in found if _knows_order(judgements[place]) for verdict in _as_shown(one)]
    gaps = np.array([lengths[place][one.first] - lengths[place][one.second] for place, one, _ in read], dtype=np.float64)
    credits = np.array([verdict.value - 0.5 for _, _, verdict in read])
    decided = gaps * credits != 0
    longer = gaps * credits > 0
    people = np.array([_of_people(None if preferred is None else preferred[place], one) for place, one, _ in read], dtype=np.float64)
    labelled = decided & ~np.isnan(people)
    scale = math.sqrt(float((gaps**2).sum() * (credits**2).sum()))
    return Biases(
        comparisons=len(found),
        read=len(read),
        ties=sum(verdict is Verdict.TIE for _, _, verdict in read),
        asked_twice=len(twice),
        flipped_to_first=sum((one.straight, one.swapped) == (Verdict.WIN, Verdict.LOSS) for one in twice),
        flipped_to_second=sum((one.straight, one.swapped) == (Verdict.LOSS, Verdict.WIN) for one in twice),
        wavered=sum((one.straight is Verdict.TIE) != (one.swapped is Verdict.TIE) for one in twice),
        shown=sum(verdict is not Verdict.TIE for verdict in shown),
        shown_first=sum(verdict is Verdict.WIN for verdict in shown),
        decided=int(decided.sum()),
        longer=int(longer.sum()),
        correlation=float((gaps * credits).sum()) / scale if scale else math.nan,
        labelled=int(labelled.sum()),
        longer_labelled=int((longer & labelled).sum()),
        longer_of_people=int((labelled & (gaps * people > 0)).sum()),
    )


def _knows_order(judgement: Judgement) -> bool:
    """Whether answers were shown in an order: neither to a judge that scores single answers nor to a vote, whose members may have been."""
    return bool(judgement.comparisons) and not judgement.by_judge


def _as_shown(one: Comparison) -> list[Verdict]:
    """Of each order that was read, the verdict on the answer that was shown first."""
    swapped = None if one.swapped is None else one.swapped.opposite
    return [verdict for verdict in (one.straight, swapped) if verdict is not None]


def _of_people(best: int | None, one: Comparison) -> float:
    """1 where people like the first answer better, -1 for the second; NaN where that is not known."""
    return 1.0 if best == one.first else -1.0 if best == one.second else math.nan
