"""What a server of chat completions answered: a reply, or nonsense."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from alignkit.scorers.returned import quoted

STOP, LENGTH, FILTER = "stop", "length", "content_filter"
"""Why a server stops: the model has ended its reply, it was cut, the server withholds it."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """A reply."""

    text: str
    finish: str
    """STOP, LENGTH or FILTER."""
    tokens: int | None
    """Of question and reply together, as the server counts them; None where it does not say."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class BadReply:
    """An answer with status 200 that holds no reply."""

    why: str
    tokens: int | None = None
    """As of a `Completion`: it was paid for all the same."""


def read_completion(body: str) -> Completion | BadReply:
    """The first choice of an answer in OpenAI's format. Nothing is guessed: a reply is a text with one of the three reasons to stop."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return BadReply(why=f"no JSON: {quoted(body)}")
    if not isinstance(answer, dict):
        return BadReply(why=f"no JSON object: {quoted(answer)}")
    tokens = _tokens(answer.get("usage"))
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(first, dict) or not isinstance(message, dict):
        return BadReply(why=f"no choices[0].message: {quoted(answer)}", tokens=tokens)
    finish, text = first.get("finish_reason"), message.get("content")
    if finish not in (STOP, LENGTH, FILTER):
        return BadReply(why=f"finish_reason = {quoted(finish)}", tokens=tokens)
    if text is None and finish != STOP:
        text = ""
    if not isinstance(text, str):
        return BadReply(why=f"content = {quoted(text)}", tokens=tokens)
    if not text.strip() and finish == STOP:
        return BadReply(why="an empty content", tokens=tokens)
    if not _is_text(text):
        return BadReply(why="a content that is no UTF-8", tokens=tokens)
    return Completion(text=text, finish=finish, tokens=tokens)


def question_size(body: Mapping[str, Any]) -> int:
    """Tokens that a request has at most: bytes of its messages as JSON, roles included, as no tokenizer makes more tokens than bytes."""
    return len(json.dumps(body["messages"], ensure_ascii=False).encode("utf-8", errors="replace"))


def _tokens(usage: object) -> int | None:
    if not isinstance(usage, dict):
        return None
    parts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")]
    total = usage.get("total_tokens")
    if not _is_count(total) and all(_is_count(part) for part in parts):
        total = sum(part for part in parts if part is not None)
    # A server that says 0 does not count.
    return int(total) if _is_count(total) and total else None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can say
        return False
    return True
