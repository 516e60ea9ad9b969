"""Data sets of the hub, with a server of our own in its place."""

from __future__ import annotations

import gzip
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
from huggingface_hub import constants

import alignkit.hub
from alignkit.data.hub import read_hub
from alignkit.errors import UserError

ADVICE = "Type dataset.path=FILE for a file in this format, or dataset=reviews, which needs no network."
Load = Callable[..., Any]


@pytest.fixture(autouse=True)
def online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries believe in a network, and nothing listens where the hub should be."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A server; the test says with which status and error code it answers."""
    said: dict[str, Any] = {"status": 200, "code": "", "paths": []}

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            said["paths"].append(self.path)
            body = json.dumps({"id": "some/set"}).encode()
            self.send_response(said["status"])
            self.send_header("X-Error-Code", said["code"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield said
        server.shutdown()
        thread.join()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """`some/set` is a folder with the directories of Anthropic/hh-rlhf; the calls that loaded it."""
    for directory in ("harmless-base", "helpful-base"):
        for split in ("train", "test"):
            file = tmp_path / "set" / directory / f"{split}.jsonl.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(gzip.compress(json.dumps({"chosen": f"{directory} {split}", "rejected": "x"}).encode()))
    calls: list[dict[str, Any]] = []
    load: Load = datasets.load_dataset

    def fake(path: str, **options: Any) -> Any:
        calls.append(options)
        assert path == "some/set"
        return load(str(tmp_path / "set"), **options)

    monkeypatch.setattr(datasets, "load_dataset", fake)
    return calls


def complaint(subset: str | None = None, split: str = "train") -> str:
    with pytest.raises(UserError) as caught:
        read_hub("some/set", subset, split)
    return str(caught.value)


def test_without_a_network_the_answer_comes_at_once_and_names_other_ways() -> None:
    start = time.monotonic()
    message = complaint()
    assert time.monotonic() - start < 5
    assert message.startswith("dataset.hub = some/set: the hub cannot be reached (")
    assert message.endswith(f") and the cache does not have the data. {ADVICE}")
    assert not constants.HF_HUB_OFFLINE
    assert not datasets.config.HF_HUB_OFFLINE


def test_a_server_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alignkit.hub, "REQUEST_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        assert "the hub cannot be reached (" in complaint()


def test_a_resolver_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    awake = threading.Event()
    monkeypatch.setattr(alignkit.hub, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: awake.wait(5))
    assert "(no answer within 0.1 seconds)" in complaint()
    awake.set()


def test_the_offline_switch_is_obeyed(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "(HF_HUB_OFFLINE is set)" in complaint()
    assert answer["paths"] == []


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, "RepoNotFound", "dataset.hub = some/set: the hub has no such data set, or it is private."),
        (403, "GatedRepo", "dataset.hub = some/set is open only to those who asked. Ask on its page at http"),
        (503, "", "dataset.hub = some/set: the hub cannot be reached ("),
    ],
)
def test_what_the_hub_answers_is_told(answer: dict[str, Any], status: int, code: str, words: str) -> None:
    answer.update(status=status, code=code)
    assert complaint().startswith(words)


def test_an_impossible_id_is_told(answer: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="must be the name of a data set on the hub"):
        read_hub("a/b/c", None, "train")
    assert answer["paths"] == []


def test_a_subset_may_be_a_directory(answer: dict[str, Any], repository: list[dict[str, Any]]) -> None:
    table = read_hub("some/set", "harmless-base", "test")
    assert list(table) == [{"chosen": "harmless-base test", "rejected": "x"}]
    assert table.where(0) == "dataset.hub = some/set, row 1"
    assert repository == [{"name": "harmless-base"}, {"data_dir": "harmless-base"}]
    assert answer["paths"] == ["/api/datasets/some/set"]


def test_a_wrong_split_or_subset_is_told_with_those_there_are(answer: dict[str, Any], repository: list[dict[str, Any]]) -> None:
    assert complaint("harmless-base", "tests") == ("dataset.split = 'tests'; dataset.hub = some/set has train, test. Did you mean 'test'?")
    message = complaint("harmles")
    assert message.startswith(
        "dataset.hub = some/set with dataset.subset = harmles could not be loaded: BuilderConfig 'harmles' not found."
    )
    assert message.endswith(ADVICE)


def test_what_was_read_once_is_read_again_without_the_hub(
    answer: dict[str, Any], repository: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(read_hub("some/set", "helpful-base", "train"))
    answer.update(status=503)
    repository.clear()
    assert list(read_hub("some/set", "helpful-base", "train")) == rows == [{"chosen": "helpful-base train", "rejected": "x"}]
    assert repository == []


def test_a_data_set_that_comes_as_a_script_is_read_from_the_hubs_conversion(
    answer: dict[str, Any], repository: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = datasets.load_dataset

    def fake(path: str, **options: Any) -> Any:
        if options.pop("revision", None) is None:
            raise RuntimeError("Dataset scripts are no longer supported, but found set.py")
        return load(path, **options)

    monkeypatch.setattr(datasets, "load_dataset", fake)
    assert list(read_hub("some/set", "harmless-base", "train")) == [{"chosen": "harmless-base train", "rejected": "x"}]
    assert repository == [{"data_dir": "harmless-base"}]
