"""What a judge is worth: how often it prefers what people prefer, and what sways it.   P pairs of answers"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self, final

from alignkit.evaluation.intervals import Interval, wilson
from alignkit.evaluation.judge_biases import Biases, biases_of
from alignkit.judges.bouts import Verdict
from alignkit.judges.judge import Judgement
from alignkit.judges.standings import comparisons_of


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeResult:
    """Of one judge, on pairs of which people's preference is known."""

    pairs: int
    wins: int
    """Pairs of which it prefers what people prefer."""
    ties: int
    losses: int
    replies: int
    """Of a language model."""
    reasons: Mapping[str, int]
    """How many replies could not be read, by the reason."""
    biases: Biases

    @classmethod
    def of(cls, judgements: Sequence[Judgement], preferred: Sequence[int], lengths: Sequence[Sequence[int]]) -> Self:
        """Of P judgements on two answers each; `preferred` are P places, 0 or 1, and `lengths` P times 2 tokens."""
        verdicts = Counter(
            verdict for judgement, place in zip(judgements, preferred, strict=True) if (verdict := verdict_on(judgement, place)) is not None
        )
        return cls(
            pairs=len(judgements),
            wins=verdicts[Verdict.WIN],
            ties=verdicts[Verdict.TIE],
            losses=verdicts[Verdict.LOSS],
            replies=sum(one.replies for one in judgements),
            reasons=dict(sum((Counter(one.reasons) for one in judgements), Counter[str]())),
            biases=biases_of(judgements, lengths, preferred),
        )

    @property
    def read(self) -> int:
        """Pairs with a verdict."""
        return self.wins + self.ties + self.losses

    @property
    def accuracy(self) -> Interval:
        """Of the pairs with a verdict, the share in which it prefers what people prefer, a tie counting one half."""
        return wilson(self.wins + self.ties / 2, self.read)

    @property
    def decided_accuracy(self) -> Interval:
        """The same of the pairs that it does not call a tie."""
        return wilson(self.wins, self.wins + self.losses)

    @property
    def tied(self) -> Interval:
        """How often it finds no difference, of the pairs with a verdict."""
        return wilson(self.ties, self.read)

    @property
    def unread(self) -> Interval:
        """How often a reply cannot be read."""
        return wilson(sum(self.reasons.values()), self.replies)


def verdict_on(judgement: Judgement, place: int) -> Verdict | None:
    """On one of two answers; None where nothing is known."""
    (comparison,) = comparisons_of(judgement) or (None,)
    if comparison is None or comparison.verdict is None:
        return None
    return comparison.verdict if comparison.first == place else comparison.verdict.opposite
