"""Secrets of the user's are planted wherever they may lie; after runs, a crash, a sweep and a report none is in any file or word."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alignkit.command_line import read_flags
from alignkit.errors import RankError, UserError
from alignkit.job import ending, show
from alignkit.launching.outcomes import Outcomes
from alignkit.redaction import redacted
from alignkit.run_dir import RunDir

PLANTED = {
    "HF_TOKEN": "hf_" + "QzWx" * 9,
    "WANDB_API_KEY": "0123456789abcdef" * 2 + "01234567",
    "OPENAI_API_KEY": "sk-proj-" + "Zy9" * 12,
    "REWARD_AUTHORIZATION": "Bearer wobble-reward-pass",
    "DB_PASSWORD": "correcthorsebattery",
    "HTTPS_PROXY": "http://proxyuser:proxypass77@127.0.0.1:9",
    "NETRC": "netrcpassword123",
    "GIT": "ghp_" + "Kk3" * 12,
}
"""By where they are: in variables, in `~/.netrc`, and in the address of the working directory's git remote."""
NEEDLES = [*(value for key, value in PLANTED.items() if key != "HTTPS_PROXY"), "proxypass77", "wobble-reward-pass"]
SMALL = (
    *("loss=dpo", "steps=2", "schedule.warmup_steps=0", "validation.every=2", "validation.samples=1", "validation.sample_tokens=4"),
    *("logger.every=1", "dataset.pairs=24", "dataset.validation_examples=4", "batch.pairs=4", "callbacks.progress_bar=false"),
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {PLANTED['NETRC']}\n")
    (folder / ".netrc").chmod(0o600)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    remote = f"https://user:{PLANTED['GIT']}@example.com/x.git"
    subprocess.run(["git", "-C", str(folder), "remote", "add", "origin", remote], check=True)
    return folder


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    named = {key: value for key, value in PLANTED.items() if key not in ("NETRC", "GIT")}
    return named | {"HOME": str(home), "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1"}


def found_in(folder: Path) -> Iterator[str]:
    for path, _, names in os.walk(folder):
        for name in names:
            file = Path(path) / name
            if file.is_file() and not file.is_symlink() and file.name != ".netrc" and ".git" not in file.parts:
                content = file.read_bytes()
                yield from (f"{needle} in {file}" for needle in NEEDLES if needle.encode() in content)


def test_no_secret_is_left_anywhere(home: Path, environment: dict[str, str], commands: Any, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    runs = tmp_path / "runs"
    crash = {"alignkit.training:NOISE": 5}  # iterating over it is an error of our own
    orders = [
        commands.order(*SMALL, f"run_dir={runs / 'one'}", log=log, folder=home, environment=environment),
        commands.order("-m", *SMALL, "seed=0,1", f"run_dir={runs / 'sweep'}", log=log, folder=home, environment=environment),
        commands.order(*SMALL, f"run_dir={runs / 'crash'}", log=log, folder=home, environment=environment, constants=crash),
    ]
    one, sweep, crashed = commands.together(*orders)
    told = log.read_text()
    assert (one, sweep) == (0, 0), told
    assert crashed == 1
    assert "TypeError" in told
    code = commands(str(runs), "-o", str(tmp_path / "page.html"), command="alignkit.report", log=log, folder=home, environment=environment)
    assert code == 0
    assert (runs / "one" / "wandb").is_dir()
    assert not list(found_in(tmp_path))


@pytest.mark.parametrize("argument", ["logger.project={}", "+x={}", "{}", "model.path={}", "dataset.path=https://user:{}@example.com/x"])
@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "GIT"])
def test_a_secret_that_is_typed_is_refused_and_not_repeated(argument: str, name: str) -> None:
    with pytest.raises(UserError) as caught:
        read_flags([argument.format(PLANTED[name])])
    assert PLANTED[name] not in str(caught.value)
    assert "revoke it" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"a {PLANTED['HF_TOKEN']} b",
        f"Authorization: Bearer {PLANTED['OPENAI_API_KEY']}",
        f"https://user:{PLANTED['GIT']}@example.com/x.git",
        "http://user:pass%20word@host/",
        "AKIAABCDEFGHIJKLMNOP",
        "glpat-abcdefghijklmnopqrst",
        "xoxb-123456789012-abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
    ],
)
def test_what_looks_like_a_secret_is_taken_out(text: str) -> None:
    assert "[secret removed]" in redacted(text)


def test_what_is_one_by_its_name_is_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "correcthorsebattery")
    monkeypatch.setenv("KEYBOARD", "us")
    assert redacted("the correcthorsebattery of us") == "the [secret removed] of us"
    assert (
        redacted("https://example.com/a:b@c and seed=0, 3f2a9c, step-000040.ckpt")
        == "https://example.com/a:b@c and seed=0, 3f2a9c, step-000040.ckpt"
    )


def test_a_crash_that_tells_the_whole_environment_tells_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name if name != "GIT" else "GIT_TOKEN", value)
    monkeypatch.delenv("NETRC")
    for kind in (RuntimeError, UserError, RankError, SystemExit):
        try:
            raise kind(f"no server at {dict(os.environ)} for https://user:{PLANTED['GIT']}@example.com")
        except BaseException as error:
            code, message = ending(error)
            show(error, code, message, debug=True)
            assert not [needle for needle in NEEDLES if needle in message and needle != PLANTED["NETRC"]]
    told = capsys.readouterr().err
    assert "no server at" in told
    assert not [needle for needle in NEEDLES if needle in told and needle != PLANTED["NETRC"]]


def test_what_ranks_leave_is_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", PLANTED["HF_TOKEN"])
    outcomes = Outcomes.of(RunDir(tmp_path))
    outcomes.folder.mkdir()
    try:
        raise RuntimeError(PLANTED["HF_TOKEN"])
    except RuntimeError as error:
        outcomes.write(0, error, 1, "x")
    assert PLANTED["HF_TOKEN"] not in (outcomes.folder / "0.json").read_text()
