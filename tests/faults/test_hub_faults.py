"""A hub that refuses, breaks off and lies while a model arrives: one message that says what to type, and no damaged file later."""

from __future__ import annotations

import hashlib
import http.server
import importlib.resources
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from alignkit.errors import UserError
from alignkit.hub import first_line
from alignkit.models import location
from alignkit.models.arriving import checksum
from alignkit.models.loading import load_config, load_lm, load_tokenizer
from alignkit.models.location import locate

TOKEN = "hf_" + "S" * 34
COMMIT = "a" * 40
MODEL = "some/model"
TINY = Path(str(importlib.resources.files("alignkit"))) / "lab" / "pretrained" / "tiny"
FILES = {file.name: file.read_bytes() for file in TINY.iterdir() if file.is_file()}


class Hub(http.server.BaseHTTPRequestHandler):
    """One model. `faults` says by a file's name, or `api`, how it goes wrong: a status, `gated`, `cut` or `flipped`."""

    protocol_version = "HTTP/1.1"
    faults: dict[str, object]
    tokens: list[str | None]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.tokens.append(self.headers.get("Authorization"))
        path = self.path.partition("?")[0]
        if path.startswith("/api/"):
            fault = self.faults.get("api")
            if isinstance(fault, int):
                return self.reply(fault)
            listed = [{"type": "file", "path": name, "size": len(body), "oid": "x"} for name, body in FILES.items()]
            about = {"id": MODEL, "sha": COMMIT, "siblings": [{"rfilename": name} for name in FILES]}
            return self.reply(200, json.dumps(listed if "/tree/" in path else about).encode(), Content_Type="application/json")
        name = path.rpartition("/")[2]
        if name not in FILES:
            return self.reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        return self.give(name, self.faults.get(name))

    def give(self, name: str, fault: object) -> None:
        body = FILES[name]
        if isinstance(fault, int):
            return self.reply(fault, X_Repo_Commit=COMMIT)
        if fault == "gated":
            return self.reply(403, X_Error_Code="GatedRepo", X_Error_Message="Access is restricted", X_Repo_Commit=COMMIT)
        etag = hashlib.sha256(body).hexdigest() if len(body) > 10_000 else hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
        if fault == "flipped":
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        return self.reply(200, body, cut=fault == "cut", ETag=f'"{etag}"', X_Repo_Commit=COMMIT)

    def reply(self, status: int, body: bytes = b"", *, cut: bool = False, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = cut

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """A hub for the libraries and an empty cache; the test says what goes wrong."""
    monkeypatch.setattr(Hub, "faults", {}, raising=False)
    monkeypatch.setattr(Hub, "tokens", [], raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between tries
    monkeypatch.chdir(tmp_path)
    location._require_hub.cache_clear()
    yield Hub.faults
    location._require_hub.cache_clear()
    server.shutdown()
    thread.join()
    server.server_close()


def load() -> Any:
    """What a run does with `model=hf model.path=some/model`."""
    path = locate("model.path", MODEL)
    load_config("model.path", path)
    load_tokenizer("model.path", path)
    return load_lm("model.path", path, torch.float32)


REFUSED = "the hub refused or broke off ("
AGAIN = "type the command again once the hub answers, or model.path=FOLDER"
FAULTS: list[tuple[str, object, str, str]] = [
    ("api", 401, "the hub lets nobody without the right access token have it", "hf auth login"),
    ("api", 403, "the hub lets nobody without the right access token have it", "hf auth login"),
    ("api", 429, "the hub cannot be reached (429 ", "model=tiny, or model.path=FOLDER"),
    ("api", 500, "the hub cannot be reached (", "model=tiny, or model.path=FOLDER"),
    ("config.json", 429, REFUSED, AGAIN),
    ("config.json", "gated", "is open only to those who asked", "hf auth login"),
    ("config.json", "cut", REFUSED, AGAIN),
    ("config.json", "flipped", "what has arrived as config.json is not what the hub has", "Type the command again"),
    ("tokenizer.json", "flipped", "what has arrived as tokenizer.json is not what the hub has", "Type the command again"),
    ("model.safetensors", 500, REFUSED, AGAIN),
    ("model.safetensors", "gated", "is open only to those who asked", "hf auth login"),
    ("model.safetensors", "cut", REFUSED, AGAIN),
    ("model.safetensors", "flipped", "what has arrived as model.safetensors is not what the hub has", "Type the command again"),
]


@pytest.mark.parametrize(("what", "fault", "words", "advice"), FAULTS, ids=[f"{what} {fault}" for what, fault, _, _ in FAULTS])
def test_a_fault_is_one_message_and_once_it_is_over_the_model_loads(
    what: str, fault: object, words: str, advice: str, hub: dict[str, object], capfd: pytest.CaptureFixture[str]
) -> None:
    hub[what] = fault
    with pytest.raises(UserError) as caught:
        load()
    message = str(caught.value)
    assert message.startswith(f"model.path = '{MODEL}'")
    assert words in message
    assert advice in message
    assert "\n" not in message
    hub.clear()
    location._require_hub.cache_clear()
    lm = load()
    assert sum(parameter.numel() for parameter in lm.parameters()) > 0
    assert f"Bearer {TOKEN}" in Hub.tokens, "the token is used"
    out, error = capfd.readouterr()
    assert TOKEN not in message + out + error


def test_what_was_damaged_in_the_cache_later_is_fetched_again(hub: dict[str, object], tmp_path: Path) -> None:
    expected = {name: value.clone() for name, value in load().state_dict().items()}  # weights are mapped
    (weights,) = (tmp_path / "hub").rglob("snapshots/*/model.safetensors")
    blob = weights.resolve()
    assert checksum(blob) == blob.name
    with blob.open("r+b") as opened:
        opened.seek(-4096, 2)
        opened.write(bytes(4096))
    with pytest.raises(UserError, match=r"what has arrived as model\.safetensors is not what the hub has"):
        load()
    assert not blob.exists()
    assert all(torch.equal(value, expected[name]) for name, value in load().state_dict().items())


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("403 for url 'https://cdn.example/x?X-Amz-Signature=abc&Key=def'. Sorry", "403 for url 'https://cdn.example/x'. Sorry"),
        ("cannot connect to http://me:secret@proxy:80/x", "cannot connect to http://proxy:80/x"),
        ("is the server running? Yes.\n  Really", "is the server running? Yes. Really"),
    ],
)
def test_addresses_are_told_without_their_secrets(said: str, told: str) -> None:
    assert first_line(OSError(said)) == told
