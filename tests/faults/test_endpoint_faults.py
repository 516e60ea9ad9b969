"""A reward server that dies while a run learns from it: one message, the state is kept, and the rest is what it would have been."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from alignkit.run_dir import RunDir, read_jsonl

SHORT = (
    *("loss=ppo", "scorer=http", "scorer.timeout=5", "scorer.retries=1", "scorer.backoff=0.01", "rollout.samples=2"),
    *("rollout.max_tokens=6", "loss.epochs=2", "loss.minibatches=2", "steps=6", "validation.every=2", "validation.samples=0"),
    *("logger=jsonl", "logger.every=1", "batch.pairs=2", "dataset.pairs=12", "dataset.validation_examples=2", "schedule.warmup_steps=1"),
    "callbacks.progress_bar=false",
)
Commands = Callable[..., int]


class Rewards(BaseHTTPRequestHandler):
    """Vowels per completion; with `dies_at` it answers no request from that one on."""

    asked: int
    dies_at: int | None

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).asked += 1
        if self.dies_at is not None and self.asked >= self.dies_at:
            self.close_connection = True
            return
        scores = [len(re.findall("[aeiou]", text)) / 10 for text in body["completions"]]
        data = json.dumps({"scores": scores}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Of the server."""
    monkeypatch.setattr(Rewards, "asked", 0, raising=False)
    monkeypatch.setattr(Rewards, "dies_at", None, raising=False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Rewards)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/score"
    server.shutdown()
    thread.join()
    server.server_close()


def rows(run: RunDir) -> list[dict[str, Any]]:
    """What was logged, without times."""
    timed = ("time", "seconds", "throughput", "peak_memory", "tokens_per_second")
    return [{name: value for name, value in row.items() if not any(word in name for word in timed)} for row in read_jsonl(run.metrics)]


def test_a_run_outlives_its_reward_server(address: str, commands: Commands, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    typed = (*SHORT, f"scorer.url={address}")
    assert commands(*typed, "run_dir=straight", log=log, folder=tmp_path) == 0, log.read_text()
    needed = Rewards.asked
    Rewards.asked, Rewards.dies_at = 0, needed - 1
    log = tmp_path / "died.txt"
    assert commands(*typed, "run_dir=died", log=log, folder=tmp_path) == 2
    run = RunDir(tmp_path / "died")
    told = log.read_text()
    assert f"scorer.url = '{address}': no answer after 2 tries of 5 s (" in told
    assert "Is the server running?" in told
    assert f"resume={run.path}" in told
    assert "Traceback" not in told
    Rewards.dies_at = None
    assert commands(f"resume={run.path}", log=log, folder=tmp_path) == 0, log.read_text()
    straight = RunDir(tmp_path / "straight")
    assert rows(run) == rows(straight)
    assert (run.model / "model.safetensors").read_bytes() == (straight.model / "model.safetensors").read_bytes()
