"""A language model behind a server that judges, well or badly, on this machine."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from chat_server import Fault, always, answer, chatting, cut_off, first, hang_up, healthy, slow, trickling

from alignkit.data.examples import EncodedExample, Message
from alignkit.errors import UserError
from alignkit.judges.http import Http
from alignkit.judges.judge import Candidates, Judgement, JudgeSurroundings
from alignkit.judges.writer import Writer

DEFAULTS: dict[str, Any] = {
    "url": "http://127.0.0.1:1/v1",
    "model": "m",
    "authorization": None,
    "timeout": 5.0,
    "retries": 2,
    "backoff": 0.0,
    "requests_per_minute": None,
    "concurrency": 3,
    "budget_requests": None,
    "budget_tokens": None,
    "temperature": 0.0,
    "seed": 0,
    "max_tokens": 8,
    "length_key": "max_tokens",
    "asks": "compare",
    "system": None,
    "template": "{prompt}|{first}|{second}",
    "lowest": None,
    "highest": None,
    "comparisons": None,
}
SECRET = "key-of-tidings-0123456789"


def http(url: str, **changes: Any) -> Http:
    return Http(**{**DEFAULTS, "url": url, **changes})


def surroundings(folder: Path, said: list[str] | None = None) -> JudgeSurroundings:
    """Those of a judge that needs no model."""
    nothing: Any = None
    say = (lambda line: None) if said is None else said.append
    return JudgeSurroundings(scoring=nothing, answers=nothing, model_path="", cache=folder / "replies", batch=4, say=say)


def alphabetical(messages: Sequence[Mapping[str, str]]) -> str:
    """The answer that comes first in the alphabet is better, whatever the order; equal capitals tie."""
    _, one, other = messages[-1]["content"].split("|")
    return "[[C]]" if one.lower() == other.lower() else "[[A]]" if one.lower() < other.lower() else "[[B]]"


def candidates(*completions: str, prompt: str = "which?") -> Candidates:
    example = EncodedExample(key=0, prompt_ids=(1,), completion_ids=tuple((2,) for _ in completions))
    return Candidates(prompt=prompt, completions=completions, example=example)


ASKED = [candidates("ant", "bee", "cat"), candidates("dog", "DOG", prompt="same?"), candidates("yak", "ape", prompt="é 🙂?")]
SCORES = [(1.0, 0.5, 0.0), (0.5, 0.5), (0.0, 1.0)]
QUESTIONS = 2 * (3 + 1 + 1)
"""Three pairs of the first prompt, one of each other; both orders."""


def scores(judged: Sequence[Judgement]) -> list[tuple[float | None, ...]]:
    return [one.scores for one in judged]


def unread(judged: Sequence[Judgement]) -> int:
    return sum(one.unread for one in judged)


def test_both_orders_are_asked_each_question_once_and_verdicts_come_back_in_order(tmp_path: Path) -> None:
    with chatting(alphabetical) as server:
        judged = http(server.url).open(surroundings(tmp_path))(ASKED)
    assert scores(judged) == SCORES
    assert sum(one.replies for one in judged) == QUESTIONS
    assert unread(judged) == 0
    assert len(server.requests) == QUESTIONS == len(server.answered)
    assert max(server.answered.values()) == 1
    assert {key: server.requests[0][key] for key in ("model", "temperature", "seed", "max_tokens")} == {
        "model": "m",
        "temperature": 0.0,
        "seed": 0,
        "max_tokens": 8,
    }


TIMEOUT = 0.5
"""Seconds, where a fault is that an answer does not come in time."""
TIMED = ("slow", "trickling body", "trickling headers")
FAULTS: dict[str, Fault] = {
    "429": answer({"error": "busy"}, 429),
    "429 with Retry-After": answer({"error": "busy"}, 429, Retry_After="0"),
    "500": answer(b"broken", 500),
    "503": answer(b"", 503),
    "cut off": cut_off,
    "hung up": hang_up,
    "slow": slow(TIMEOUT + 0.3),
    "trickling body": trickling(headers=False),
    "trickling headers": trickling(headers=True),
    "HTML": answer(b"<html>hello</html>", Content_Type="text/html"),
    "HTML as JSON": answer(b"<html>hello</html>"),
    "broken JSON": answer(b'{"choices": [{"message": {"content": "[[A]]"'),
    "no UTF-8": answer(b"\xff\xfe[[A]]"),
    "empty": answer(b""),
    "empty choices": answer(healthy("", choices=[])),
    "no choices": answer({"object": "chat.completion"}),
    "empty content": answer(healthy("")),
    "content of a wrong type": answer(healthy({"text": "[[A]]"})),  # type: ignore[arg-type]
    "unknown finish_reason": answer(healthy("[[A]]", choices=[{"message": {"content": "[[A]]"}}])),
}


@pytest.mark.parametrize("name", FAULTS)
def test_labels_are_those_of_a_healthy_server_whatever_goes_wrong_a_few_times(name: str, tmp_path: Path) -> None:
    fault, timeout = FAULTS[name], TIMEOUT if name in TIMED else 60.0
    # Three workers meet three faults at once, then one each of two more; no question meets more than the two retries.
    with chatting(alphabetical, lambda number: fault if number in (0, 1, 2, 6, 11) else None) as server:
        judged = http(server.url, timeout=timeout, retries=9).open(surroundings(tmp_path))(ASKED)
    assert scores(judged) == SCORES
    assert unread(judged) == 0
    assert len(server.answered) == QUESTIONS
    if name not in TIMED:  # on a busy machine an answer of the healthy server may be late, too, and then the question is asked again
        assert max(server.answered.values()) == 1


NONSENSE = [name for name, fault in FAULTS.items() if list(FAULTS).index(name) >= list(FAULTS).index("HTML")]


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_to_the_last_is_counted_as_unread_and_asked_again_by_the_next_command(name: str, tmp_path: Path) -> None:
    with chatting(alphabetical, always(FAULTS[name])) as server:
        judged = http(server.url, retries=1).open(surroundings(tmp_path))(ASKED[1:])
        assert len(server.requests) == 4 * 2
    assert scores(judged) == [(None, None), (None, None)]
    assert (unread(judged), sum(one.replies for one in judged)) == (4, 4)
    with chatting(alphabetical) as server:
        # Another port, so another address; that nothing was kept is what the first server's own cache would show.
        assert scores(http(server.url).open(surroundings(tmp_path))(ASKED[1:])) == SCORES[1:]


def test_one_order_that_is_nonsense_leaves_the_pair_unknown(tmp_path: Path) -> None:
    with chatting(lambda messages: "[[A]]" if "ape|yak" in messages[-1]["content"] else "[[D]] I like both") as server:
        (judged,) = http(server.url).open(surroundings(tmp_path))(ASKED[2:])
    assert judged.scores == (None, None)
    assert (judged.replies, judged.unread) == (2, 1)
    assert len(server.requests) == 2  # a wrong word is a reply: it is not asked again


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (answer({"error": "no room"}, 429), r"answered 429, .*no room.* after 3 tries\..* judge\.requests_per_minute"),
        (answer(b"broken", 500), r"answered 500, 'broken' after 3 tries"),
        (hang_up, r"no answer after 3 tries of 5 s \(.*\)\. Is the server running\?"),
        (cut_off, r"no answer after 3 tries of 5 s \(.*\)\."),
    ],
    ids=["429", "500", "hung up", "cut off"],
)
def test_a_server_that_fails_to_the_last_ends_the_command_and_what_was_answered_is_kept(fault: Fault, message: str, tmp_path: Path) -> None:
    broken = True
    with chatting(alphabetical, lambda number: fault if broken and number >= 4 else None) as server:
        judge = http(server.url, concurrency=1)
        with pytest.raises(UserError, match=rf"^judge\.url = '{server.url}': {message}.*\(4 of these 10 questions are answered\.\)"):
            judge.open(surroundings(tmp_path))(ASKED)
        assert len(server.requests) == 4 + 3
        broken = False
        assert scores(judge.open(surroundings(tmp_path))(ASKED)) == SCORES
        assert max(server.answered.values()) == 1
        assert len(server.answered) == QUESTIONS


@pytest.mark.parametrize("headers", [False, True], ids=["body", "headers"])
def test_an_answer_that_trickles_is_no_answer(headers: bool, tmp_path: Path) -> None:
    told = r"no answer after 2 tries of 0\.2 s \(timed out before the answer was whole\)"
    with chatting(alphabetical, always(trickling(headers=headers))) as server, pytest.raises(UserError, match=told):
        http(server.url, timeout=0.2, retries=1).open(surroundings(tmp_path))(ASKED[2:])


@pytest.mark.parametrize("status", [400, 401, 403, 404, 302, 422])
def test_a_refusal_is_told_at_once_without_the_key(status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", f"Bearer {SECRET}\n")
    said = answer({"error": {"message": f"wrong key {SECRET}"}}, status, Location="http://127.0.0.1:1/elsewhere")
    with chatting(alphabetical, always(said)) as server:
        judge = http(server.url, authorization="JUDGE_KEY", concurrency=1)
        with pytest.raises(UserError, match=rf"answered {status}, .*wrong key \[secret removed\]") as caught:
            judge.open(surroundings(tmp_path))(ASKED)
    assert len(server.requests) == 1
    assert server.headers[0]["authorization"] == f"Bearer {SECRET}"
    told = "".join(traceback.format_exception(caught.value))
    assert SECRET not in told
    assert caught.value.__context__ is None  # nor in an exception behind it
    assert SECRET not in repr(judge) + repr(judge.open(surroundings(tmp_path)))


def test_no_key_is_sent_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, SECRET)
    with chatting(alphabetical) as server:
        http(server.url).open(surroundings(tmp_path))(ASKED)
    assert not [value for headers in server.headers for value in headers.values() if SECRET in value]


def test_what_a_server_asks_for_holds_for_all_and_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignkit.judges.endpoint.LONGEST_PAUSE", 0.3)
    with chatting(alphabetical, first(answer(b"", 429, Retry_After="86400"))) as server:
        assert scores(http(server.url, concurrency=1).open(surroundings(tmp_path))(ASKED)) == SCORES
    assert server.times[1] - server.times[0] >= 0.29


def test_no_more_requests_are_in_flight_than_may_be(tmp_path: Path) -> None:
    with chatting(alphabetical, always(slow(0.05))) as server:
        assert scores(http(server.url, concurrency=3).open(surroundings(tmp_path))(ASKED)) == SCORES
    assert 1 < server.most_in_flight <= 3


def test_a_budget_of_requests_is_kept_and_said_and_what_was_paid_for_is_not_paid_for_twice(tmp_path: Path) -> None:
    with chatting(alphabetical, first(answer(b"", 500))) as server:
        spent = r"^judge\.budget_requests = 7: .*7 requests, 600 tokens.*resume=DIR.*costs nothing\. \(6 of these 10 questions"
        with pytest.raises(UserError, match=spent):
            http(server.url, budget_requests=7).open(surroundings(tmp_path))(ASKED)
        assert len(server.requests) == 7
        assert scores(http(server.url, budget_requests=4).open(surroundings(tmp_path))(ASKED)) == SCORES
    assert len(server.requests) == 7 + 4
    assert max(server.answered.values()) == 1


def test_a_budget_of_tokens_counts_what_the_server_reports(tmp_path: Path) -> None:
    with chatting(alphabetical) as server:
        with pytest.raises(UserError, match=r"^judge\.budget_tokens = 250: .*3 requests, 300 tokens\."):
            http(server.url, budget_tokens=250, concurrency=1).open(surroundings(tmp_path))(ASKED)
        assert len(server.requests) == 3


@pytest.mark.parametrize("usage", [None, {}, {"total_tokens": "many"}, {"total_tokens": 0}, {"total_tokens": -5}, [100]])
def test_where_tokens_are_not_reported_bytes_are_counted_and_that_is_said_once(usage: object, tmp_path: Path) -> None:
    said: list[str] = []
    with chatting(alphabetical, always(answer(healthy("[[A]]", usage=usage)))) as server:
        judge = http(server.url, budget_tokens=10_000).open(surroundings(tmp_path, said))
        judge(ASKED[1:2])
        judge(ASKED[2:])
        with pytest.raises(UserError, match=r"budget_tokens = 100: .*1 requests, 7\d tokens|2 requests"):
            http(f"{server.url}/../v1", budget_tokens=100, concurrency=1).open(surroundings(tmp_path))(ASKED[:1])
    assert [line.partition(":")[0] for line in said] == ["judge.budget_tokens"]
    # [{"role": "user", "content": "same?|dog|DOG"}] has 46 bytes, and the reply 5.
    assert "2 requests, 102 tokens (102 of them not reported" in said[0]


def dialogue(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


def write(url: str, folder: Path, **changes: Any) -> Writer:
    return http(url, **changes).open_writer(surroundings(folder), max_tokens=5)


@pytest.mark.parametrize(
    ("choice", "text", "refused"),
    [
        ({"finish_reason": "length", "message": {"content": "half a"}}, "half a", False),
        ({"finish_reason": "length", "message": {"content": None}}, "", False),
        ({"finish_reason": "content_filter", "message": {"content": "half a"}}, "half a", True),
        ({"finish_reason": "content_filter", "message": {}}, "", True),
    ],
)
def test_a_reply_that_is_not_finished_is_not_taken_for_one_and_not_kept(choice: object, text: str, refused: bool, tmp_path: Path) -> None:
    with chatting(lambda messages: "whole", first(answer(healthy("", choices=[choice])))) as server:
        (reply,) = write(server.url, tmp_path)([dialogue("a")])
        assert (reply.text, reply.finished, bool(reply.refused)) == (text, False, refused)
        assert len(server.requests) == 1
        (reply,) = write(server.url, tmp_path)([dialogue("a")])
        assert (reply.text, reply.finished) == ("whole", True)
    assert server.requests[0]["max_tokens"] == 5


def test_a_question_is_asked_once_by_all_commands_and_another_sampling_is_another_question(tmp_path: Path) -> None:
    with chatting(lambda messages: messages[-1]["content"].upper()) as server:
        replies = write(server.url, tmp_path)([dialogue("a"), dialogue("b"), dialogue("a")])
        assert [reply.text for reply in replies] == ["A", "B", "A"]
        assert len(server.requests) == 2
        assert [reply.text for reply in write(server.url, tmp_path, retries=7)([dialogue("b")])] == ["B"]
        assert len(server.requests) == 2
        for changes in ({"temperature": 0.5}, {"seed": 1}, {"model": "n"}, {"temperature": None}, {"length_key": "max_completion_tokens"}):
            write(server.url, tmp_path, **changes)([dialogue("b")])
        assert len(server.requests) == 2 + 5
        assert "temperature" not in server.requests[5]
        assert server.requests[6]["max_completion_tokens"] == 5
        assert "max_tokens" not in server.requests[6]
        write(server.url, tmp_path)([(Message(role="system", content="s"), *dialogue("b"))])
        assert len(server.requests) == 2 + 6


def test_without_the_package_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"pip install 'alignkit\[openai\]'"):
        http("http://127.0.0.1:1/v1").open(surroundings(tmp_path))


@pytest.mark.parametrize("url", ["http://me:tidings@127.0.0.1/v1", "http://127.0.0.1/v1?api_key=tidings"])
def test_a_secret_in_the_address_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(UserError, match=r"^judge\.url: holds a password or key") as caught:
        http(url)
    assert "tidings" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "127.0.0.1:80"}, r"^judge\.url = '127\.0\.0\.1:80'; must be an address"),
        ({"url": "http://127.0.0.1:99999/v1"}, r"^judge\.url"),
        ({"url": "http://[::1/v1"}, r"^judge\.url"),
        ({"model": ""}, r"^judge\.model"),
        ({"authorization": SECRET}, r"^judge\.authorization: must be the name of an environment variable"),
        ({"timeout": 0.0}, r"^judge\.timeout = 0"),
        ({"retries": -1}, r"^judge\.retries = -1"),
        ({"backoff": -1.0}, r"^judge\.backoff = -1"),
        ({"requests_per_minute": 0.0}, r"^judge\.requests_per_minute = 0"),
        ({"concurrency": 0}, r"^judge\.concurrency = 0"),
        ({"budget_requests": 0}, r"^judge\.budget_requests = 0"),
        ({"budget_tokens": 0}, r"^judge\.budget_tokens = 0"),
        ({"temperature": -0.1}, r"^judge\.temperature = -0\.1"),
        ({"max_tokens": 0}, r"^judge\.max_tokens = 0"),
        ({"length_key": "tokens"}, r"^judge\.length_key = 'tokens'"),
        ({"template": "{prompt}"}, r"^judge\.template: has no"),
        ({"asks": "rate"}, r"^judge\.template"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        http(**{"url": "http://127.0.0.1/v1", **changes})
    assert SECRET not in str(caught.value)
