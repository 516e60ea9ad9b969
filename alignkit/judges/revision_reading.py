"""What a language model meant by a critique or a revision: the text of it, without what models write around it.

A reply is read by these rules, in this order, and nothing else is taken away:
1. Where a line begins with a heading such as `Revision:` or `**Revised answer:**`, the text is what stands after the first one, up to a
   heading of another kind, such as `Explanation:`.
2. A first line that ends with a colon is left out where it opens with words such as `Sure`, `Here is` or `I have revised`, or ends with
   words such as `revised version:`.
3. Quotation marks around the whole text are left out.
What is left of a critique must speak of the answer: a model that goes on about the matter itself has criticised nothing.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import final

from alignkit.judges.writer import Reply

_CRITIQUE = r"critique|criticism"
_REVISION = r"(?:final |my )?(?:revision|(?:revised|rewritten) (?:answer|response|version|reply|text))"
_OTHER = r"(?:critique|revision) request|explanation|reasoning|changes(?: made)?|notes?|original (?:answer|response)"


def _heading(words: str) -> re.Pattern[str]:
    """At the beginning of a line, with Markdown or without."""
    return re.compile(
        rf"^[ \t]*(?:#{{1,6}}[ \t]*)?[*_]{{0,3}}(?:the )?(?:{words})[*_]{{0,3}}[ \t]*:[*_]{{0,3}}[ \t]*", re.IGNORECASE | re.MULTILINE
    )


_CRITIQUE_HEADING, _REVISION_HEADING = _heading(_CRITIQUE), _heading(_REVISION)
_ANY_HEADING = _heading(f"{_CRITIQUE}|{_REVISION}|{_OTHER}")
_PREAMBLE = re.compile(
    r"(?:sure|certainly|of course|absolutely|okay|ok|yes|here(?:'s|’s| is| are)|below is|this is"
    r"|i(?:'ve|’ve| have)? (?:revised|rewritten|rewrote)|(?:the|my|a) (?:revised|rewritten|better|corrected))\b"
    r"[^\n]{0,200}:[ \t]*[*_]{0,3}(?:\n|$)"
    r"|[^\n]{0,400}\b(?:revised|rewritten|better|corrected) (?:version|answer|response|reply|text):[ \t]*[*_]{0,3}(?:\n|$)",
    re.IGNORECASE,
)
OPENING = 4
"""Words of a request that are looked for in a reply: `Rewrite the text so`."""
_QUOTES = (('"', '"'), ("“", "”"), ("```", "```"))
_OF_ANSWER = re.compile(r"\b(?:answer|response|reply|question|request)", re.IGNORECASE)
_SENTENCE = re.compile(r"[^.!?\n]*")
_OF_REVISING = re.compile(r"\b(?:revis(?:e|ed|ing|ion)|rewrit(?:e|ing|ten)|rewrote|critiqu(?:e|ing))\b", re.IGNORECASE)
_NEGATION = re.compile(r"\b(?:cannot|can(?:'|’)?t|unable|won(?:'|’)?t|not|no|nothing)\b", re.IGNORECASE)


@final
class Fault(Enum):
    """Why a critique or revision could not be read; the value is its name in files."""

    REFUSED = "refused"
    """There is no reply: see `Reply.refused`."""
    CUT = "cut"
    """It reached its longest before its end."""
    EMPTY = "empty"
    """Nothing is left of it."""
    OFF_TOPIC = "off_topic"
    """A critique that does not speak of the answer."""
    DECLINED = "declined"
    """It says that it does not revise, instead of a revision."""
    UNCHANGED = "unchanged"
    """It is the answer as it was."""
    ECHO = "echo"
    """It repeats the critique, or what was asked for."""


def read_critique(reply: Reply, answer: str) -> str | Fault:
    """The critique of an answer."""
    text = _read(reply, _CRITIQUE_HEADING)
    if isinstance(text, Fault):
        return text
    if same(text, answer):
        return Fault.ECHO
    return text if _OF_ANSWER.search(text) else Fault.OFF_TOPIC


def read_revision(reply: Reply, *, answer: str, critique: str, request: str) -> str | Fault:
    """The revision of an answer after its critique."""
    text = _read(reply, _REVISION_HEADING)
    if isinstance(text, Fault):
        return text
    if same(text, answer):
        return Fault.UNCHANGED
    opening = " ".join(request.split()[:OPENING])
    if same(text, critique) or _holds(text, opening) or (len(critique.split()) >= OPENING and _holds(text, critique)):
        return Fault.ECHO
    return Fault.DECLINED if _declines(text) else text


def same(one: str, other: str) -> bool:
    """Whether two texts differ in white space and capitals at most."""
    return one.casefold().split() == other.casefold().split()


def _holds(text: str, part: str) -> bool:
    """Whether a text holds another one, but for white space and capitals."""
    return " ".join(part.casefold().split()) in " ".join(text.casefold().split())


def _read(reply: Reply, own: re.Pattern[str]) -> str | Fault:
    if reply.refused:
        return Fault.REFUSED
    if not reply.finished:
        return Fault.CUT
    return _bare(reply.text, own) or Fault.EMPTY


def _bare(text: str, own: re.Pattern[str]) -> str:
    """A text without what stands around it."""
    if heading := own.search(text):
        text = text[heading.end() :]
        if other := _ANY_HEADING.search(text):
            text = text[: other.start()]
    text = text.strip()
    if preamble := _PREAMBLE.match(text):
        text = text[preamble.end() :].strip()
    for begin, end in _QUOTES:
        inner = text[len(begin) : -len(end)]
        if len(text) > len(begin) + len(end) and text.startswith(begin) and text.endswith(end) and begin not in inner and end not in inner:
            text = inner.strip()
    return text


def _declines(text: str) -> bool:
    """Whether the first sentence says no to revising; one that says no to the question is an answer."""
    first = _SENTENCE.match(text)
    return first is not None and bool(_OF_REVISING.search(first[0]) and _NEGATION.search(first[0]))
