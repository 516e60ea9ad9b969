"""How answers to one prompt stand after they were judged.   M answers"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from alignkit.judges.bouts import Verdict
from alignkit.judges.judge import Comparison, Judgement


def comparisons_of(judgement: Judgement) -> tuple[Comparison, ...]:
    """What a judge said of pairs of answers: of one that scores single answers, that the higher score wins in either order."""
    if judgement.comparisons:
        return judgement.comparisons
    scores = judgement.scores
    return tuple(
        both_orders(first, second, by_scores(scores[first], scores[second])) for first, second in combinations(range(len(scores)), 2)
    )


def both_orders(first: int, second: int, verdict: Verdict | None) -> Comparison:
    """What is said of two answers by somebody who knows no order."""
    return Comparison(first=first, second=second, straight=verdict, swapped=verdict)


def by_scores(first: float | None, second: float | None) -> Verdict | None:
    """On the first answer: the higher score wins; None where one of them is not known."""
    if first is None or second is None:
        return None
    return Verdict.WIN if first > second else Verdict.LOSS if first < second else Verdict.TIE


def shares_won(comparisons: Sequence[Comparison], count: int) -> tuple[float | None, ...]:
    """[M] of the comparisons of an answer that were read, the share that it has won, a tie counting one half; None without any."""
    credit, read = [0.0] * count, [0] * count
    for one in comparisons:
        if one.verdict is None:
            continue
        credit[one.first] += one.verdict.value
        credit[one.second] += one.verdict.opposite.value
        read[one.first] += 1
        read[one.second] += 1
    return tuple(won / of if of else None for won, of in zip(credit, read, strict=True))
