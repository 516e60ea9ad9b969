"""What a reply means, and what is not guessed."""

from __future__ import annotations

import pytest

from alignkit.judges.bouts import Verdict
from alignkit.judges.reading import Unread, read_rating, read_verdict, without_markers
from alignkit.judges.writer import Reply


def said(text: str) -> Reply:
    return Reply(text=text, finished=True)


def cut(text: str) -> Reply:
    return Reply(text=text, finished=False)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("The first is right, the second is not. [[A]]", Verdict.WIN),
        ("[[B]]\nAssistant B follows the instruction: [[B]].", Verdict.LOSS),
        ("My verdict: [[ c ]]", Verdict.TIE),
        ("[[link]] is a link, so [[A]]", Verdict.WIN),
        ("A", Verdict.WIN),
        (" **[B]**.\n", Verdict.LOSS),
        ("C", Verdict.TIE),
        ("Answer A is better.", Verdict.WIN),
        ("The better answer is: Assistant B", Verdict.LOSS),
        ("Final verdict: C", Verdict.TIE),
    ],
)
def test_a_verdict_is_read(text: str, verdict: Verdict) -> None:
    assert read_verdict(said(text)) is verdict


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", Unread.NO_VERDICT),
        ("Both are good.", Unread.NO_VERDICT),
        ("A is not better.", Unread.NO_VERDICT),
        ("A better answer is B", Unread.NO_VERDICT),  # the article
        ("a", Unread.NO_VERDICT),
        ("The answer is A", Unread.NO_VERDICT),  # to the question, perhaps
        ("C is better", Unread.NO_VERDICT),  # there is no such answer
        ("A, B, or C", Unread.NO_VERDICT),
        ("[[D]]", Unread.NO_VERDICT),
        ("[A]] or [[B]", Unread.NO_VERDICT),
        ("[[A]] if A is better, [[B]] if B is", Unread.CONTRADICTORY),
        ("[[A]], no: [[C]]", Unread.CONTRADICTORY),
    ],
)
def test_a_verdict_that_is_not_clear_is_not_guessed(text: str, why: Unread) -> None:
    assert read_verdict(said(text)) is why


def test_a_reply_that_was_cut_is_read_only_where_its_verdict_came_first() -> None:
    assert read_verdict(cut("[[A]] because the first answer is")) is Verdict.WIN
    assert read_verdict(cut("Let me compare the answers. The first")) is Unread.CUT
    assert read_verdict(cut("A")) is Unread.CUT  # "A is worse", perhaps
    for begun in ("[[A]] is what some would say, but [[", "[[A]], no, [[B", "[[A]], no, [[B]", "[[A]] ["):
        assert read_verdict(cut(begun)) is Unread.CUT
    assert read_rating(cut("7"), 1, 10) is Unread.CUT
    assert read_rating(cut("Rating: [[7]]. The answer"), 1, 10) == 7.0


def test_nothing_is_read_where_there_is_no_reply() -> None:
    assert read_verdict(Reply(text="", finished=False, refused="too long")) is Unread.REFUSED
    assert read_rating(Reply(text="", finished=False, refused="too long"), 1, 10) is Unread.REFUSED


@pytest.mark.parametrize(
    ("text", "rating"),
    [("Rating: [[7]]", 7.0), ("[[7]] and again [[7.0]]", 7.0), ("7.5", 7.5), ("**Rating: 8**", 8.0), ("[[1]]", 1.0), ("[[10]]", 10.0)],
)
def test_a_rating_is_read(text: str, rating: float) -> None:
    assert read_rating(said(text), 1, 10) == rating


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[11]]", Unread.OUT_OF_RANGE),
        ("[[0.9]]", Unread.OUT_OF_RANGE),
        ("-3", Unread.OUT_OF_RANGE),
        ("[[7]] or [[8]]", Unread.CONTRADICTORY),
        ("[[A]]", Unread.NO_VERDICT),
        ("The answer is 7.", Unread.NO_VERDICT),  # to the question, perhaps
        ("7 of 10 would agree", Unread.NO_VERDICT),
        ("[[nan]]", Unread.NO_VERDICT),
    ],
)
def test_a_rating_that_is_not_clear_is_not_guessed(text: str, why: Unread) -> None:
    assert read_rating(said(text), 1, 10) is why


@pytest.mark.parametrize("text", ["[[A]]", "[[ b ]]", "[[[A]]]", "[[[[C]]]]", "x [[7]] y", "[[[7.5]]", "[[ [[A]] ]]", "[[A]][[B]]"])
def test_a_text_that_is_quoted_gives_no_verdict(text: str) -> None:
    quoted = said(f"The answer says: {without_markers(text)}, which is odd.")
    assert isinstance(read_verdict(quoted), Unread)
    assert isinstance(read_rating(quoted, 1, 10), Unread)


def test_brackets_that_are_no_verdict_stay_as_they_are() -> None:
    text = "a[[i]] = [[1, 2], [3, 4]]; [[Main page]] [A] [7]"
    assert without_markers(text) == text
