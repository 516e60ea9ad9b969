"""A project on W&B's server: its own client asks a server on this machine that answers as W&B's does."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from alignkit.analysis.runs import load_runs
from alignkit.errors import UserError

ROWS = [
    {"_step": 0, "_timestamp": 1000.5, "_runtime": 1.5, "trainer/global_step": 0, "val/loss": 0.6931471805599453},
    {"_step": 1, "_timestamp": 1001.5, "_runtime": 2.5, "trainer/global_step": 0, "samples": {"_type": "table-file"}},
    {"_step": 2, "_timestamp": 1002.5, "_runtime": 3.5, "trainer/global_step": 10, "val/loss": "NaN"},
    {"_step": 3, "_timestamp": 1003.5, "_runtime": 4.5, "trainer/global_step": 20, "val/loss": 0.25, "train/loss": 0.5},
]
SUMMARY = {"val/loss": 0.25, "train/loss": 0.5, "formula": "dpo: L", "_step": 3, "samples": {"_type": "table-file"}}


def run(name: str, shown: str, state: str, beta: float) -> dict[str, Any]:
    """A run as W&B's GraphQL tells of it, with all fields that its client asks for."""
    config = {"loss": {"name": "dpo", "beta": beta, "layers": [1, 2]}, "seed": 0}
    unused = dict.fromkeys(("sweepName", "group", "jobType", "commit", "readOnly", "description", "notes", "historyKeys"))
    return unused | {
        "id": name,
        "name": name,
        "displayName": shown,
        "state": state,
        "config": json.dumps({key: {"value": value} for key, value in config.items()} | {"_wandb": {"value": {}}}),
        "summaryMetrics": json.dumps(SUMMARY),
        "systemMetrics": "{}",
        "historyKeys": {"lastStep": 3, "keys": {}},
        "historyLineCount": len(ROWS),
        "createdAt": "2026-01-01T00:00:00",
        "heartbeatAt": "2026-01-01T00:00:00",
        "tags": [],
        "user": {"name": "u", "username": "u"},
        "projectId": "1",
    }


RUNS = {"a1": run("a1", "dpo-tiny", "finished", 0.1), "b2": run("b2", "dpo-tiny", "running", 0.5)}


def answer(query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """What W&B's server says to one query."""
    if variables.get("project", variables.get("name")) == "absent":
        return {"project": None}
    if "runs(" in query:
        edges = [{"node": one, "cursor": name} for name, one in RUNS.items()]
        page = {"endCursor": "b2", "hasNextPage": False}
        return {"project": {"internalId": "1", "runCount": 2, "readOnly": False, "runs": {"edges": edges, "pageInfo": page}}}
    if "run(" in query:
        name = next(variables[key] for key in ("run", "runName", "name") if key in variables)
        history = [json.dumps(row) for row in ROWS]
        return {
            "project": {"internalId": "1", "run": RUNS[name] | {"history": history, "parquetHistory": {"parquetUrls": [], "liveData": []}}}
        }
    return {"viewer": {"id": "1", "username": "u", "entity": "team", "email": "", "flags": "{}", "admin": False, "teams": {"edges": []}}}


class Server(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        given = json.loads(body) if self.path == "/graphql" else {"query": ""}
        told = json.dumps({"data": answer(given["query"], given.get("variables") or {})}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def log_message(self, *args: object) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[None]:
    """W&B's client is led to this machine, with a key that no other server knows."""
    import wandb

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as there:
        Thread(target=there.serve_forever, daemon=True).start()
        wandb.teardown()  # what earlier tests left: settings are read from the environment once
        for name, value in {
            "WANDB_BASE_URL": f"http://127.0.0.1:{there.server_port}",
            "WANDB_API_KEY": "0" * 40,
            "WANDB_CACHE_DIR": str(tmp_path / "cache"),
            "WANDB_ERROR_REPORTING": "false",
        }.items():
            monkeypatch.setenv(name, value)
        yield
        wandb.teardown()
        there.shutdown()


def test_a_project_s_runs_are_frames_like_any_other(server):
    runs = load_runs("wandb:team/project")
    assert runs.names == ["dpo-tiny", "dpo-tiny (2)"]
    assert runs.info[["status", "path"]].to_numpy().tolist() == [["done", None], ["unfinished", None]]
    assert runs.config.to_dict("records") == [
        {"loss.name": "dpo", "loss.beta": beta, "loss.layers": (1, 2), "seed": 0} for beta in (0.1, 0.5)
    ]
    assert runs.varied() == ["loss.beta"]
    first = runs.history[runs.history["run"] == "dpo-tiny"]
    assert list(first) == ["run", "step", "epoch", "time", "val/loss", "train/loss"]
    assert first["step"].tolist() == [0, 10, 20]
    assert first["time"].tolist() == [1000.5, 1002.5, 1003.5]
    assert first["val/loss"].fillna(-1).tolist() == [0.6931471805599453, -1, 0.25]
    assert runs.results.iloc[0].to_dict() == {"val/loss": 0.25, "formula": "dpo: L"}
    assert runs.samples.empty


def test_one_run_of_a_project_may_be_named(server):
    assert load_runs("wandb:team/project/b2").config["loss.beta"].tolist() == [0.5]


def test_a_project_that_is_not_there_is_said_in_a_line(server):
    with pytest.raises(UserError, match=r"'wandb:team/absent': W&B does not show it \(.*\). Check the name, and log in with `wandb login`"):
        load_runs("wandb:team/absent")


def test_nobody_is_asked_for_a_key(server, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"nobody is logged in at 127.0.0.1:\d+. Type `wandb login` once, or set WANDB_API_KEY"):
        load_runs("wandb:team/project")
    (tmp_path / "netrc").write_text(f"machine {os.environ['WANDB_BASE_URL'].removeprefix('http://')} login user password {'0' * 40}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert len(load_runs("wandb:team/project").names) == 2


@pytest.mark.parametrize("place", ["wandb:project", "wandb:a/b/c/d", "wandb:/b"])
def test_a_place_that_is_written_otherwise_is_refused(place):
    with pytest.raises(UserError, match="must be wandb:entity/project, or wandb:entity/project/run_id"):
        load_runs(place)
