"""A server of chat completions on this machine, in OpenAI's format, that behaves or does not."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, final

Speaker = Callable[[Sequence[Mapping[str, str]]], str]
"""From the messages of a request to the reply."""
Fault = Callable[[BaseHTTPRequestHandler, bytes], None]
"""Answers a request in place of the healthy answer, which it is given."""
Faults = Callable[[int], Fault | None]
"""Of the n-th request, counted from 0, its fault."""


def healthy(text: str, **changes: Any) -> dict[str, Any]:
    """A whole answer; `changes` replace keys of it."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 60, "completion_tokens": 40, "total_tokens": 100}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage, **changes}


def answer(body: object, status: int = 200, **headers: str) -> Fault:
    """This body, as JSON unless it is bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def send(request: BaseHTTPRequestHandler, whole: bytes) -> None:
        request.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(data)

    return send


def cut_off(request: BaseHTTPRequestHandler, whole: bytes) -> None:
    """The connection ends in the middle of the healthy answer."""
    request.send_response(200)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(whole)))
    request.end_headers()
    request.wfile.write(whole[: len(whole) // 2])
    request.close_connection = True


def hang_up(request: BaseHTTPRequestHandler, whole: bytes) -> None:
    """No answer at all."""
    request.close_connection = True


def slow(seconds: float) -> Fault:
    """The healthy answer, later."""

    def send(request: BaseHTTPRequestHandler, whole: bytes) -> None:
        time.sleep(seconds)
        with suppress(OSError):
            answer(whole)(request, whole)

    return send


def trickling(*, headers: bool) -> Fault:
    """The healthy answer, byte by byte, each long before any time-out of a socket."""

    def send(request: BaseHTTPRequestHandler, whole: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(whole)
        with suppress(OSError):
            if not headers:
                request.wfile.write(head)
            for byte in head * headers + whole:
                request.wfile.write(bytes([byte]))
                request.wfile.flush()
                time.sleep(0.03)
        request.close_connection = True

    return send


@final
@dataclass(kw_only=True)
class ChatServer:
    """A running server, and what it has seen."""

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Bodies, in order."""
    headers: list[dict[str, str]] = field(default_factory=list)
    """Of each, names in lower case."""
    times: list[float] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)
    """Questions that had a healthy answer, whole."""
    most_in_flight: int = 0


def first(*faults: Fault) -> Faults:
    """These, one a request, and none after them."""
    return lambda number: faults[number] if number < len(faults) else None


def always(fault: Fault) -> Faults:
    """Of every request."""
    return lambda number: fault


@contextmanager
def chatting(speak: Speaker, faults: Faults = lambda number: None) -> Iterator[ChatServer]:
    """A server, as long as it is needed."""
    seen = ChatServer()
    lock = threading.Lock()
    in_flight = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            nonlocal in_flight
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(seen.requests)
                seen.requests.append(body)
                seen.headers.append({name.lower(): value for name, value in self.headers.items()})
                seen.times.append(time.monotonic())
                in_flight += 1
                seen.most_in_flight = max(seen.most_in_flight, in_flight)
            try:
                self.respond(number, body)
            finally:
                with lock:
                    in_flight -= 1

        def respond(self, number: int, body: Mapping[str, Any]) -> None:
            if self.path != "/v1/chat/completions":
                answer({"error": "nothing here"}, 404)(self, b"")
                return
            whole = json.dumps(healthy(speak(body["messages"]))).encode()
            fault = faults(number)
            if fault is not None:
                fault(self, whole)
                return
            answer(whole)(self, whole)
            with lock:
                seen.answered[json.dumps(body["messages"])] += 1

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # clients that hang up are what is tested

    server = Server(("127.0.0.1", 0), Handler)
    seen.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
