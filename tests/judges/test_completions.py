"""What a server of chat completions answered is a reply, or it is not; nothing is guessed."""

from __future__ import annotations

import pytest

from alignkit.judges.completions import BadReply, Completion, read_completion

NO_REPLIES = [
    "",
    "null",
    "[]",
    "3",
    "<html>",
    "[" * 100_000,
    '{"choices": {"0": {}}}',
    '{"choices": [null]}',
    '{"choices": [{"message": "hello"}]}',
    '{"choices": [{"message": {}, "finish_reason": "stop"}]}',
    '{"choices": [{"message": {"content": ["x"]}, "finish_reason": "stop"}]}',
    '{"choices": [{"message": {"content": "\\ud800"}, "finish_reason": "stop"}]}',
    '{"choices": [{"message": {"content": "x"}, "finish_reason": ["stop"]}]}',
]


@pytest.mark.parametrize("body", NO_REPLIES, ids=range(len(NO_REPLIES)))
def test_what_is_no_reply_is_nonsense(body: str) -> None:
    assert isinstance(read_completion(body), BadReply)


def test_the_first_choice_is_the_reply_as_it_stands() -> None:
    body = '{"choices": [{"message": {"content": " x\\n"}, "finish_reason": "stop"}, {"message": {"content": "y"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}'  # noqa: E501
    assert read_completion(body) == Completion(text=" x\n", finish="stop", tokens=7)
