"""What a judge that is a language model meant by its reply: the reply alone is read, and one that is not clear is not guessed."""

from __future__ import annotations

import re
from enum import Enum
from typing import final

from alignkit.judges.bouts import Verdict
from alignkit.judges.writer import Reply

VERDICTS = {"A": Verdict.WIN, "B": Verdict.LOSS, "C": Verdict.TIE}
"""On the answer that was shown first. The letters of MT-bench (Zheng et al. 2023, arXiv:2306.05685, figure 5)."""
_MARKED = re.compile(r"\[\[\s*([^\[\]]{1,40}?)\s*\]\]")
_SHOWN = re.compile(r"\[{2,}\s*([^\[\]]{1,40}?)\s*\]{2,}")
"""The same with brackets around it, of which a pair less would be a marker."""
_OPEN = re.compile(r"\[(\[[^\]]*\]?)?$")
"""A marker that has begun and not ended."""
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
_AROUND = r"[\s\[\]().:*\"'`]*"
_SIDE = r"(?:answer|assistant|response)"
_BETTER = r"(?:better|best)"
_LEAD = rf"(?:(?:the |my )?(?:{_BETTER} {_SIDE}|(?:final )?verdict)(?: is)?{_AROUND})?"
_LETTER = re.compile(
    rf"{_AROUND}(?:{_LEAD}(?:{_SIDE} )?(?P<side>(?-i:[AB]))(?: is (?:the )?{_BETTER}(?: {_SIDE}| one)?)?"
    rf"|(?:(?:the |my )?(?:final )?verdict(?: is)?{_AROUND})?(?P<tie>(?-i:C))){_AROUND}",
    re.IGNORECASE,
)
"""A reply that is nothing but its verdict: `A`, `**[B]**`, `Answer A is better.`, `The better answer is A`, `Verdict: C`. Not `The answer
is A`, which may answer the question."""
_RATING = re.compile(
    rf"{_AROUND}(?:(?:the |my )?(?:final )?(?:rating|score)(?: is)?{_AROUND})?(?P<rating>{_NUMBER.pattern}){_AROUND}", re.IGNORECASE
)
"""Likewise: `7`, `Rating: 7`."""


@final
class Unread(Enum):
    """Why a reply could not be read; the value is its name in files."""

    REFUSED = "refused"
    """There is no reply: see `Reply.refused`."""
    CUT = "cut"
    """It reached its longest before a verdict."""
    NO_VERDICT = "no_verdict"
    CONTRADICTORY = "contradictory"
    """Verdicts of more than one kind."""
    OUT_OF_RANGE = "out_of_range"


def read_verdict(reply: Reply) -> Verdict | Unread:
    """On the answer that was shown first.

    Read are `[[A]]`, `[[B]]` and `[[C]]` (a tie), anywhere, as often as the judge likes but of one kind only, and a reply that ended and
    is nothing but the letter, or one sentence that names it. Other double brackets are no verdicts.
    """
    marked = {found.upper() for found in _MARKED.findall(reply.text)} & VERDICTS.keys()
    letter = _meant(reply, marked, _LETTER)
    return letter if isinstance(letter, Unread) else VERDICTS[letter]


def read_rating(reply: Reply, lowest: float, highest: float) -> float | Unread:
    """A number in [lowest, highest] as `[[7]]`, or as the whole of a reply that ended; other double brackets are no ratings."""
    marked = {found for found in _MARKED.findall(reply.text) if _NUMBER.fullmatch(found)}
    digits = _meant(reply, {min(same, key=len) for same in _equal(marked)}, _RATING)
    if isinstance(digits, Unread):
        return digits
    rating = float(digits)
    return rating if lowest <= rating <= highest else Unread.OUT_OF_RANGE


def without_markers(text: str) -> str:
    """A text that is shown to a judge, with single brackets where it has a verdict or a rating in double ones: a judge that quotes it
    gives no verdict by that."""
    return _SHOWN.sub(lambda found: f"[{found[1]}]" if _is_verdict(found[1]) else found[0], text)


def _meant(reply: Reply, marked: set[str], bare: re.Pattern[str]) -> str | Unread:
    """The one verdict among those that a reply holds in double brackets; where there is none, the whole reply if it is a bare one."""
    if reply.refused:
        return Unread.REFUSED
    if len(marked) > 1:
        return Unread.CONTRADICTORY
    if not reply.finished and _OPEN.search(reply.text):
        return Unread.CUT  # what begins there may be another one
    if marked:
        return marked.pop()
    if reply.finished and (whole := bare.fullmatch(reply.text)):
        return next(said for said in whole.groups() if said)
    return Unread.NO_VERDICT if reply.finished else Unread.CUT


def _equal(numbers: set[str]) -> list[set[str]]:
    """Spellings of one number, such as 7 and 7.0, together."""
    by_value: dict[float, set[str]] = {}
    for number in numbers:
        by_value.setdefault(float(number), set()).add(number)
    return list(by_value.values())


def _is_verdict(text: str) -> bool:
    return text.upper() in VERDICTS or _NUMBER.fullmatch(text) is not None
