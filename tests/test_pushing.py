"""A model goes to the hub in one commit and comes back whole; the hub is a server of our own."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, constants
from transformers import PreTrainedTokenizerBase

from alignkit.command_line import precheck
from alignkit.configuration import config_yaml
from alignkit.errors import UserError
from alignkit.export import export
from alignkit.hub import check_upload
from alignkit.loss_settings import HeadSettings
from alignkit.models.backbone import Backbone
from alignkit.models.export import load_aligned, save_heads, save_model
from alignkit.models.heads import Heads
from alignkit.models.loading import load_lm, load_tokenizer
from alignkit.models.location import locate
from alignkit.models.model_card import model_card, read_facts
from alignkit.models.texts import Texts, save_texts
from alignkit.pushing import push
from alignkit.run_dir import RunDir

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")  # of huggingface_hub, by its own client
END = 1
TOKEN = "hf_test"
NAME = "someone/aligned"


class Hub(http.server.ThreadingHTTPServer):
    """As much of the hub as an upload and a download need."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.made: list[dict[str, Any]] = []
        """What repositories were asked for."""
        self.blobs: dict[str, bytes] = {}
        """Large files, by their hash."""
        self.files: dict[str, bytes] = {}
        """Of the newest commit."""
        self.commits = 0
        self.fails_at = ""
        """Part of a path whose requests are refused."""
        self.status = 200
        """With which status."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(http.server.BaseHTTPRequestHandler):
    """The endpoints."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self._refused():
            return
        hub, path = self.server, self.path.partition("?")[0]
        if path == "/api/repos/create":
            hub.made.append(json.loads(body))
            self._say({"url": f"{hub.url}/{NAME}", "id": NAME})
        elif path == "/api/validate-yaml":
            self._say({"errors": [], "warnings": []})
        elif path == f"/api/models/{NAME}/preupload/main":
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"} for f in files]
            self._say({"files": [{**mode, "shouldIgnore": False} for mode in modes]})
        elif path == f"/{NAME}.git/info/lfs/objects/batch":
            objects = json.loads(body)["objects"]
            upload = [{**thing, "actions": {"upload": {"href": f"{hub.url}/blobs/{thing['oid']}"}}} for thing in objects]
            self._say({"transfer": "basic", "objects": upload})
        elif path == f"/api/models/{NAME}/commit/main":
            lines = [json.loads(line) for line in body.splitlines()]
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    hub.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[value["path"]] = hub.blobs[value["oid"]]
            hub.commits += 1
            self._say({"commitUrl": f"{hub.url}/{NAME}/commit/{'0' * 40}", "commitOid": "0" * 40, "hookOutput": ""})
        else:
            self._say({"error": path}, 404)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._refused():
            return
        oid = self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.blobs[oid] = body
        self._say({})

    def do_GET(self) -> None:
        if self._refused():
            return
        path = self.path.partition("?")[0]
        if path == "/api/whoami-v2":
            self._say({"name": "someone", "type": "user", "auth": {"accessToken": {"role": "write"}}})
        elif path.startswith(f"/{NAME}/resolve/"):
            self._file(path.rpartition("/")[2])
        elif path.startswith(f"/api/models/{NAME}/tree/"):
            self._say([])
        elif path.startswith(f"/api/models/{NAME}"):
            self._say({"id": NAME, "sha": "0" * 40, "siblings": [{"rfilename": file} for file in self.server.files]})
        else:
            self._say({"error": path}, 404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _file(self, name: str) -> None:
        content = self.server.files.get(name)
        if content is None:
            self._say({}, 404, {"X-Error-Code": "EntryNotFound"})
        else:
            etag = hashlib.sha256(content).hexdigest()
            self._send(content, 200, {"ETag": f'"{etag}"', "X-Repo-Commit": "0" * 40})

    def _refused(self) -> bool:
        if not self.server.fails_at or self.server.fails_at not in self.path:
            return False
        self._say({"error": "no"}, self.server.status)
        return True

    def _say(self, answer: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(answer).encode(), status, headers or {})

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that knows everybody, and libraries that believe in it."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its chunks go to a server of another kind
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run's directory with `builtin:tiny` and a head."""
    made = RunDir(tmp_path / "run")
    made.path.mkdir()
    backbone = Backbone(load_lm("model.path", locate("model.path", "builtin:tiny"), torch.float32))
    torch.manual_seed(0)
    heads = Heads(backbone.hidden_width, {"dph": HeadSettings(name="dph", pooler="bert", dropout=0.0, init_std=0.1)})
    save_model(made.model, backbone, tokenizer())
    save_heads(made, heads, terminator=END, tokenizer=tokenizer())
    save_texts(made.texts, Texts(kind="text", terminator_id=END))
    made.card.write_text("of the run's own folder")
    return made


def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer("model.path", locate("model.path", "builtin:tiny"))


def card(run: RunDir) -> ModelCard:
    (settings,) = precheck(["loss=con_dph"])
    return model_card(read_facts(run, settings, tokenizer(), {}, repository=NAME))


def test_everything_goes_in_one_commit_and_comes_back_as_it_was(hub: Hub, run: RunDir, tmp_path: Path) -> None:
    assert push(run, card(run), NAME, private=True) == f"{hub.url}/{NAME}"
    assert [(made["name"], made["visibility"]) for made in hub.made] == [("aligned", "private")]
    assert hub.commits == 1
    beside = (run.heads, run.heads_description, run.texts)
    own = {file.name: file.read_bytes() for file in (*run.model.iterdir(), *beside) if file != run.card}
    assert {name: content for name, content in hub.files.items() if name != "README.md"} == own
    assert hub.files["README.md"].decode() == str(card(run))
    folder = tmp_path / "downloaded"
    folder.mkdir()
    for name, content in hub.files.items():
        (folder / name).write_bytes(content)
    there, here = (load_aligned(path).score(["A good"], [" film"]) for path in (folder, run.path))
    assert torch.equal(there, here)


def test_the_command_pushes_a_finished_run_with_a_card_for_each_place(hub: Hub, run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    (settings,) = precheck(["loss=con_dph"])
    run.config.write_text(config_yaml(settings))
    assert export([str(run.path), f"push={NAME}", "license=mit"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"model: {run.model}", f"hub: {hub.url}/{NAME}"]
    there, here = hub.files["README.md"].decode(), run.card.read_text()
    assert "license: mit" in there
    assert "# aligned" in there
    assert "../" not in there
    assert "load_file('../heads.safetensors')" in here
    assert str(run.path) not in there + here


def test_the_code_of_the_card_scores_with_what_it_downloads(
    hub: Hub, run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    push(run, card(run), NAME, private=False)
    code = hub.files["README.md"].decode().split("```python\n")[-1].split("```")[0]
    assert f"hf_hub_download('{NAME}', 'heads.safetensors')" in code
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(code, {})
    name, score = capsys.readouterr().out.split()
    prompt, completion = "What is a good film for a rainy day?", " One that you have not seen yet."
    assert (name, float(score)) == ("dph", pytest.approx(load_aligned(run.path).score([prompt], [completion]).item(), abs=1e-5))


@pytest.mark.parametrize("place", ["/preupload/", "/blobs/", "/commit/"])
def test_an_upload_that_fails_says_so_and_leaves_the_run_to_be_pushed_again(place: str, hub: Hub, run: RunDir) -> None:
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    hub.fails_at, hub.status = place, 403
    with pytest.raises(
        UserError, match=rf"push = '{NAME}': the upload failed \(.*try again with: python -m alignkit\.export .*push={NAME}"
    ):
        push(run, card(run), NAME, private=True)
    assert hub.commits == 0
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before
    hub.fails_at = ""
    push(run, card(run), NAME, private=True)
    assert hub.commits == 1


def test_who_may_not_push_is_told_before_anything_is_made(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check_upload("push", NAME)
    hub.fails_at, hub.status = "whoami", 401
    with pytest.raises(UserError, match="the hub does not know the access token"):
        check_upload("push", NAME)
    hub.status = 400
    with pytest.raises(UserError, match="the hub cannot be reached"):
        check_upload("push", NAME)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"push = 'someone/aligned': there is no access token\. Type hf auth login"):
        check_upload("push", NAME)
    assert hub.made == []
