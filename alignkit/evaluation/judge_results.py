"""What a judge is worth: how often it prefers what people prefer, and what sways it.   P pairs of answers"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Self, final

from alignkit.evaluation.agreement import cohen_kappa, krippendorff_alpha, raw_agreement
from alignkit.evaluation.intervals import Interval, wilson
from alignkit.evaluation.judge_biases import Biases, biases_of
from alignkit.judges.bouts import Verdict
from alignkit.judges.judge import Judgement
from alignkit.judges.standings import comparisons_of

ALPHA = "krippendorff_alpha"
RAW, KAPPA = "agreement", "cohen_kappa"


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


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How the members of a vote agree with each other, over the pairs of answers that they compared."""

    of_two: Mapping[tuple[str, str], tuple[float, float]]
    """Of each two members: the share of pairs of which both say the same, of those that both speak about, and Cohen's kappa."""
    alpha: float
    """Krippendorff's, of all members; NaN of fewer than two."""

    @classmethod
    def of(cls, judgements: Sequence[Judgement]) -> Self:
        """Of judgements on any number of prompts, all by the same members."""
        words: dict[str, list[Verdict | None]] = {name: [] for one in judgements[:1] for name in one.by_judge}
        for one in judgements:
            said = {name: {(pair.first, pair.second): pair.verdict for pair in comparisons_of(own)} for name, own in one.by_judge.items()}
            pairs = dict.fromkeys(pair for verdicts in said.values() for pair in verdicts)
            for name, verdicts in said.items():
                words[name] += [verdicts.get(pair) for pair in pairs]
        return cls(
            of_two={
                (left, right): (raw_agreement(words[left], words[right]), cohen_kappa(words[left], words[right]))
                for left, right in combinations(words, 2)
            },
            alpha=krippendorff_alpha(list(words.values())) if len(words) > 1 else math.nan,
        )

    def flat(self, prefix: str = "") -> dict[str, float]:
        """`a+b/agreement`, `a+b/cohen_kappa` and `krippendorff_alpha`; nothing of a single judge."""
        if not self.of_two:
            return {}
        two = {
            f"{prefix}{left}+{right}/{name}": value
            for (left, right), both in self.of_two.items()
            for name, value in zip((RAW, KAPPA), both, strict=True)
        }
        return two | {f"{prefix}{ALPHA}": self.alpha}


def verdict_on(judgement: Judgement, place: int) -> Verdict | None:
    """On one of two answers; None where nothing is known."""
    (comparison,) = comparisons_of(judgement) or (None,)
    if comparison is None or comparison.verdict is None:
        return None
    return comparison.verdict if comparison.first == place else comparison.verdict.opposite
