"""A server that scores, well or badly, on this machine."""

from __future__ import annotations

import io
import json
import socket
import struct
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from alignkit.errors import UserError
from alignkit.scorers.http import Http

Reply = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


def reply(body: object, status: int = 200, **headers: str) -> Reply:
    """An answer of this body, as JSON unless it is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def send(request: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    return send


def word_counts(request: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
    """One number a completion: 100 times the words of the prompt, and the words of the completion."""
    pairs = zip(asked["prompts"], asked["completions"], strict=True)
    reply({"scores": [100 * len(prompt.split()) + len(text.split()) for prompt, text in pairs]})(request, asked)


def cut_off(request: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "1000")
    request.end_headers()
    request.wfile.write(b'{"scores": [')


def hang_up(request: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
    request.close_connection = True


def too_late(request: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
    time.sleep(0.4)


@contextmanager
def serving(*replies: Reply) -> Iterator[tuple[str, list[Any]]]:
    """A server that gives each reply once and then the last one for ever; its address, and the requests that it was sent."""
    seen: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, dict(self.headers), asked))
            replies[min(len(seen), len(replies)) - 1](self, asked)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/score", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def http(url: str, **changes: Any) -> Http:
    return Http(**{"url": url, "batch": 2, "timeout": 5.0, "retries": 2, "backoff": 0.0, "authorization": None, **changes})


PROMPTS, COMPLETIONS = ["one", "one two", "one"], ["a b", "", "é \n 🙂"]
SCORES = [102.0, 200.0, 102.0]


def test_prompts_and_completions_are_sent_in_batches_and_scores_come_back_in_order() -> None:
    with serving(word_counts) as (url, seen):
        assert http(url).score(PROMPTS, COMPLETIONS) == SCORES
    assert [asked for _, _, asked in seen] == [
        {"prompts": ["one", "one two"], "completions": ["a b", ""]},
        {"prompts": ["one"], "completions": ["é \n 🙂"]},
    ]
    assert seen[0][0] == "/score"
    assert seen[0][1]["Content-Type"] == "application/json"
    assert "Authorization" not in seen[0][1]


@pytest.mark.parametrize(
    "failing",
    [reply("busy", 429, Retry_After="0"), reply("broken", 500), reply("", 503), cut_off, hang_up],
    ids=["429", "500", "503", "cut off", "hung up"],
)
def test_a_server_that_fails_twice_is_asked_a_third_time(failing: Reply) -> None:
    with serving(failing, failing, word_counts) as (url, seen):
        assert http(url, batch=3).score(PROMPTS, COMPLETIONS) == SCORES
    assert len(seen) == 3


def test_a_server_that_is_slow_once_is_asked_again() -> None:
    with serving(too_late, word_counts) as (url, seen):
        assert http(url, batch=3, timeout=0.2, retries=9).score(PROMPTS, COMPLETIONS) == SCORES
    assert len(seen) >= 2  # more where this machine is slow itself


def test_tries_wait_longer_each_time() -> None:
    with serving(reply("broken", 500), reply("broken", 500), reply("broken", 500), word_counts) as (url, _):
        started = time.perf_counter()
        http(url, batch=3, retries=3, backoff=0.02).score(PROMPTS, COMPLETIONS)
        # Nothing before the second try, 0.02 * 2 before the third, 0.02 * 4 before the fourth.
        assert 0.12 <= time.perf_counter() - started < 2


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (reply("no room", 429), r"answered 429, '\"no room\"'"),
        (reply({"error": "broken"}, 500), 'answered 500, \'{"error": "broken"}\''),
        (reply("who are you", 401), "answered 401"),
        (reply("", 302, Location="/elsewhere"), "answered 302"),
        (reply(b"<html>hello</html>"), "must answer a JSON object with 'scores'; answered '<html>hello</html>'"),
        (reply(b"\xff\xfe"), "must answer a JSON object with 'scores'"),
        (reply([1.0, 2.0, 3.0]), r"must answer a JSON object with 'scores'; answered \[1\.0, 2\.0, 3\.0\]"),
        (reply({"score": [1, 2, 3]}), r"answered \{'score': \[1, 2, 3\]\}"),
        (reply({"scores": 1.0}), "must give a list of 3 numbers"),
        (reply({"scores": [1.0, 2.0]}), r"must give one number for each of 3 completions; gave 2: \[1\.0, 2\.0\]"),
        (reply({"scores": [1.0, "2", 3.0]}), "must give finite numbers; gave '2' for completion 2 of 3"),
        (reply({"scores": [1.0, None, 3.0]}), "gave None for completion 2"),
        (reply(b'{"scores": [1.0, 2.0, NaN]}'), "gave nan for completion 3"),
        (cut_off, "no answer after 2 tries"),
    ],
)
def test_an_answer_that_is_none_is_told_as_it_came(answer: Reply, message: str) -> None:
    with serving(answer) as (url, _), pytest.raises(UserError, match=rf"^scorer\.url = '{url}': .*{message}"):
        http(url, batch=3, retries=1).score(PROMPTS, COMPLETIONS)


def test_a_server_that_never_answers_in_time_is_told() -> None:
    with serving(too_late) as (url, _), pytest.raises(UserError, match=r"no answer after 2 tries .*timed out"):
        http(url, retries=1, timeout=0.1).score(PROMPTS, COMPLETIONS)


def drip(*, body: bytes, headers: bool = False) -> Reply:
    """An answer that comes byte by byte, each of them long before any time-out."""

    def send(request: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        if not headers:
            request.wfile.write(head)
        with suppress(OSError):
            for byte in head * headers + body:
                request.wfile.write(bytes([byte]))
                request.wfile.flush()
                time.sleep(0.05)

    return send


@pytest.mark.parametrize("headers", [False, True], ids=["body", "headers"])
def test_an_answer_that_trickles_is_no_answer(headers: bool) -> None:
    with serving(drip(body=b'{"scores": [1, 2, 3]}' + b" " * 40, headers=headers)) as (url, seen):
        started = time.perf_counter()
        with pytest.raises(UserError, match=r"no answer after 2 tries of 0\.2 s \(timed out before the answer was whole\)"):
            http(url, batch=3, retries=1, timeout=0.2).score(PROMPTS, COMPLETIONS)
        assert time.perf_counter() - started < 3
    assert len(seen) == 2
    with serving(drip(body=b'{"scores": [9, 9, 9]}' + b" " * 40), word_counts) as (url, _):
        # The late answer to the first try is not taken for that to the second.
        assert http(url, batch=3, timeout=0.4, retries=9).score(PROMPTS, COMPLETIONS) == SCORES


@pytest.mark.parametrize(("asked", "paused"), [("7", 7), ("86400", 120), ("Fri, 31 Dec 9999 23:59:59 GMT", 120), ("soon", 0), ("-5", 0)])
def test_a_server_may_ask_for_two_minutes_at_most(asked: str, paused: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    with serving(reply("busy", 429, Retry_After=asked), word_counts) as (url, _):
        monkeypatch.setattr("alignkit.scorers.http.time", types.SimpleNamespace(sleep=pauses.append))
        assert http(url, batch=3).score(PROMPTS, COMPLETIONS) == SCORES
    assert pauses == [paused]


def reset(request: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
    """The connection is reset instead of closed."""
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()
    request.close_connection = True
    request.wfile = io.BytesIO()


def test_a_connection_that_is_reset_is_tried_again_and_then_told() -> None:
    with serving(reset, word_counts) as (url, _):
        assert http(url, batch=3).score(PROMPTS, COMPLETIONS) == SCORES
    with serving(reset) as (url, seen), pytest.raises(UserError, match=r"no answer after 3 tries of 5 s \(.*reset"):
        http(url, batch=3).score(PROMPTS, COMPLETIONS)
    assert len(seen) == 3


def test_an_answer_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignkit.scorers.http.LONGEST_ANSWER", 100)
    with serving(reply({"scores": [1.0] * 100})) as (url, _), pytest.raises(UserError, match="longer than 100 bytes"):
        http(url, retries=0).score(PROMPTS, COMPLETIONS)


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"scores": [1e999, 1, 1]}', b'{"scores": [' + b"9" * 5000 + b", 1, 1]}"])
def test_json_that_is_meant_to_hurt_is_one_message(data: bytes) -> None:
    with serving(reply(data)) as (url, _), pytest.raises(UserError, match=r"^scorer\.url = "):
        http(url, batch=3, retries=0).score(PROMPTS, COMPLETIONS)


@pytest.mark.parametrize(
    "url", ["http://me:tidings@127.0.0.1/", "http://127.0.0.1/?api_key=tidings", "http://127.0.0.1/?a=1&Token=tidings"]
)
def test_a_secret_in_the_address_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(UserError, match=r"^scorer\.url: holds a password or key") as caught:
        http(url)
    assert "tidings" not in str(caught.value)


def test_a_server_that_is_not_there_is_told() -> None:
    with serving(word_counts) as (url, _):
        pass
    with pytest.raises(UserError, match=r"no answer after 3 tries .*Is the server running\?"):
        http(url).score(PROMPTS, COMPLETIONS)


def test_the_secret_is_read_from_the_environment_and_never_stands_in_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARD_AUTHORIZATION", "Bearer of-tidings\n")
    with serving(word_counts) as (url, seen):
        scorer = http(url, authorization="REWARD_AUTHORIZATION")
        scorer.score(PROMPTS, COMPLETIONS)
    assert seen[0][1]["Authorization"] == "Bearer of-tidings"
    assert "tidings" not in repr(scorer)


def test_what_is_no_variable_is_refused_without_being_repeated() -> None:
    with pytest.raises(UserError, match=r"^scorer\.authorization: must be the name of an environment variable") as caught:
        http("http://127.0.0.1:1/", authorization="Bearer of-tidings")
    assert "tidings" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "127.0.0.1:80"}, r"^scorer\.url = '127\.0\.0\.1:80'; must be an address"),
        ({"url": "file:///etc/passwd"}, r"^scorer\.url"),
        ({"batch": 0}, r"^scorer\.batch = 0"),
        ({"timeout": 0.0}, r"^scorer\.timeout = 0"),
        ({"retries": -1}, r"^scorer\.retries = -1"),
        ({"backoff": -1.0}, r"^scorer\.backoff = -1"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        http(**{"url": "http://127.0.0.1/", **changes})
