"""A server on this machine that W&B's client takes for its own, and that stops answering when it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, final

Trouble = Literal["none", "silence", "errors"]


def answers(run: str) -> dict[str, Any]:
    """What there is to say, by what is asked for."""
    project = {"id": "2", "name": "alignkit", "entity": {"id": "3", "name": "me"}}
    bucket = {"id": "1", "name": run, "displayName": run, "config": "{}", "historyLineCount": 0, "project": project}
    return {
        "upsertBucket": {"bucket": bucket, "inserted": True},
        "createRunFiles": {"runID": "1", "uploadHeaders": [], "files": []},
        "serverInfo": {"features": []},
    }


@final
class Server(ThreadingHTTPServer):
    """What W&B's client talks to. Its `trouble` begins at its first request, or with the first rows that it is sent."""

    daemon_threads = True

    def __init__(self, trouble: Trouble, *, later: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.trouble = trouble
        self.has_begun = not later
        self.closed = threading.Event()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a run use this server."""
        return {"WANDB_BASE_URL": f"http://127.0.0.1:{self.server_port}", "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online"}


@final
class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        """Any request."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.has_begun |= self.path.endswith("/file_stream")
        if self.server.has_begun and self.server.trouble == "silence":
            self.server.closed.wait()
            return
        if self.server.has_begun and self.server.trouble == "errors":
            self.answer(500, {"error": "no"})
            return
        asked = json.loads(body) if self.path.startswith("/graphql") else {}
        run = (asked.get("variables") or {}).get("name") or "run"
        self.answer(200, {"data": {name: answer for name, answer in answers(run).items() if name in asked.get("query", "")}})

    do_GET = do_POST  # noqa: N815
    do_PUT = do_POST  # noqa: N815

    def answer(self, status: int, content: Any) -> None:
        """Send JSON."""
        text = json.dumps(content).encode()
        with suppress(ConnectionError):  # who asked may have gone
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def serving(trouble: Trouble, *, later: bool = False) -> Iterator[Server]:
    """A server that runs meanwhile."""
    with Server(trouble, later=later) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.closed.set()
        server.shutdown()
