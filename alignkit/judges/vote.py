"""`judge=vote`: several judges, each of whom has one vote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

from alignkit.errors import UserError
from alignkit.judges.bouts import Verdict
from alignkit.judges.judge import Candidates, Judge, JudgeKind, Judgement, JudgeSurroundings
from alignkit.judges.standings import both_orders, comparisons_of, shares_won

OWN = "vote"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Vote(JudgeKind):
    """Several judges, and what most of them say of each pair of answers.

    A member votes for one of the two answers, or for a tie; an answer wins with more than half of the votes that were cast, and else the
    pair is a tie. A member who was not understood casts no vote, and neither does one who did not compare that pair; where nobody votes
    nothing is known. A score is the share of an answer's comparisons that it has won, a tie counting one half: members' own scores are in
    different units and are not added up.
    """

    judges: Mapping[str, JudgeKind]
    """By name, at least one; nobody is called `vote`, as all of them together are."""

    def __post_init__(self) -> None:
        if OWN in self.judges:
            raise UserError(f"judge.judges.{OWN}: is what all of them together are called. Choose another name.")

    def open(self, surroundings: JudgeSurroundings) -> Judge:
        return _Voters(judges={name: _opened(name, kind, surroundings) for name, kind in self.judges.items()})


def _opened(name: str, kind: JudgeKind, surroundings: JudgeSurroundings) -> Judge:
    try:
        return kind.open(surroundings)
    except UserError as error:
        # A judge names its fields `judge.path`, wherever it stands.
        raise UserError(f"judge.judges.{name}: {error}") from None


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class _Voters:
    """Open judges."""

    judges: Mapping[str, Judge]

    def __call__(self, asked: Sequence[Candidates]) -> list[Judgement]:
        said = {name: judge(asked) for name, judge in self.judges.items()}
        return [counted(len(one.completions), {name: own[place] for name, own in said.items()}) for place, one in enumerate(asked)]


def counted(count: int, said: Mapping[str, Judgement]) -> Judgement:
    """The vote on so many answers to a prompt, of what each member said of them."""
    votes: dict[tuple[int, int], list[Verdict | None]] = {}
    for own in said.values():
        for one in comparisons_of(own):
            votes.setdefault((one.first, one.second), []).append(one.verdict)
    comparisons = tuple(both_orders(first, second, majority(cast)) for (first, second), cast in sorted(votes.items()))
    reasons = sum((Counter(own.reasons) for own in said.values()), Counter[str]())
    return Judgement(
        scores=shares_won(comparisons, count),
        comparisons=comparisons,
        replies=sum(own.replies for own in said.values()),
        unread=sum(own.unread for own in said.values()),
        reasons=dict(reasons),
        by_judge=dict(said),
    )


def majority(votes: Sequence[Verdict | None]) -> Verdict | None:
    """What more than half of the votes say that were cast, else a tie; None where none was."""
    cast = [vote for vote in votes if vote is not None]
    if not cast:
        return None
    verdict, most = Counter(cast).most_common(1)[0]
    return verdict if 2 * most > len(cast) else Verdict.TIE
