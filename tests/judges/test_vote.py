"""Several judges, each of whom has one vote."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from alignkit.errors import UserError
from alignkit.judges.bouts import Verdict
from alignkit.judges.judge import Candidates, Judgement
from alignkit.judges.standings import comparisons_of, shares_won
from alignkit.judges.vote import Vote, counted, majority

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder
from judge_stand_ins import compared

WIN, TIE, LOSS = Verdict.WIN, Verdict.TIE, Verdict.LOSS


@pytest.mark.parametrize(
    ("votes", "verdict"),
    [
        ([WIN, WIN, LOSS], WIN),
        ([LOSS, WIN, LOSS], LOSS),
        ([WIN, LOSS], TIE),
        ([WIN, TIE], TIE),  # one of two is no majority
        ([WIN, TIE, TIE], TIE),
        ([WIN, TIE, LOSS], TIE),
        ([WIN, WIN, LOSS, LOSS], TIE),
        ([WIN, WIN, TIE, LOSS], TIE),  # two of four
        ([WIN, None, None], WIN),  # who was not understood does not vote
        ([None, None], None),
    ],
)
def test_more_than_half_of_the_votes_decide(votes: list[Verdict | None], verdict: Verdict | None) -> None:
    assert majority(votes) is verdict
    assert majority(votes[::-1]) is verdict
    assert majority([vote and vote.opposite for vote in votes]) is (verdict and verdict.opposite)


def test_scores_vote_by_their_order_alone() -> None:
    """Member a: 0 > 1 > 2, b: 1 > 0 > 2, c in other units: 0 > 1 = 2; 0 wins both of its pairs, 1 one of two."""
    said = {"a": Judgement(scores=(3.0, 2.0, 1.0)), "b": Judgement(scores=(2.0, 3.0, 1.0)), "c": Judgement(scores=(900.0, -5.0, -5.0))}
    vote = counted(3, said)
    assert vote.scores == (1.0, 0.5, 0.0)
    assert [(one.first, one.second, one.verdict) for one in vote.comparisons] == [(0, 1, WIN), (0, 2, WIN), (1, 2, WIN)]
    assert vote.by_judge == said


def test_a_member_whose_verdict_goes_with_the_order_votes_for_a_tie() -> None:
    vote = counted(2, {"a": compared(WIN, LOSS), "b": compared(WIN), "c": compared(WIN)})
    assert vote.scores == (1.0, 0.0)
    assert counted(2, {"a": compared(WIN, LOSS), "b": compared(WIN)}).scores == (0.5, 0.5)


def test_replies_of_members_are_added_up() -> None:
    read, unread = Judgement(scores=(1.0, 2.0), replies=2), Judgement(scores=(None, None), replies=2, unread=2, reasons={"cut": 2})
    vote = counted(2, {"a": read, "b": unread})
    assert (vote.replies, vote.unread, vote.reasons, vote.scores) == (4, 2, {"cut": 2}, (0.0, 1.0))
    assert counted(2, {"b": unread}).scores == (None, None)


def test_a_share_of_comparisons_counts_ties_as_halves_and_leaves_out_what_is_unknown() -> None:
    judged = [compared(TIE), compared(None), Judgement(scores=(1.0, None, 2.0))]
    assert shares_won(judged[0].comparisons, 2) == (0.5, 0.5)
    assert shares_won(judged[1].comparisons, 2) == (None, None)
    assert shares_won(comparisons_of(judged[2]), 3) == (0.0, None, 1.0)


class _Kind:
    """A member whose opening fails."""

    def open(self, surroundings: object) -> object:
        raise UserError("judge.path = 'x': there is no such folder.")

    def __call__(self, asked: Sequence[Candidates]) -> list[Judgement]:
        return []


def test_a_fault_names_the_member() -> None:
    with pytest.raises(UserError, match=r"judge\.judges\.mine: judge\.path = 'x'"):
        Vote(judges={"mine": _Kind()}).open(None)  # type: ignore[dict-item,arg-type]
    with pytest.raises(UserError, match=r"judge\.judges\.vote: is what all of them together are called"):
        Vote(judges={"vote": _Kind()})  # type: ignore[dict-item]
