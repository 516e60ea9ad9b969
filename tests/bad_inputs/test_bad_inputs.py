"""Every bad input of the tables beside this file: refused in one message, or handled and counted; never a traceback, never trained on
as if nothing were wrong."""

from __future__ import annotations

import dataclasses
import importlib
import io
import os
import re
import sys
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, final

import datasets
import pytest

import alignkit.generation.run
import alignkit.training  # noqa: F401  some of what these import makes files of its own the first time, which are nobody's fault
from alignkit.command_line import check_paths

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder
from cases import UNTIL, Case, all_cases

CASES = all_cases()
ACCEPTED = 77
"""Exit code of a command that got as far as it may here."""
COMPOSED: dict[tuple[str, tuple[str, ...]], Any] = {}
"""What a command line means, by command and arguments."""
TRAINING = "alignkit.training:fit"
"""No command gets further than this."""


@final
class Stop:
    """Stands where a command would begin what a bad input must not begin."""

    def __init__(self) -> None:
        self.counts: dict[str, int] | None = None
        self.reached = False

    def __call__(self, *arguments: Any, **options: Any) -> NoReturn:
        self.reached = True
        for argument in arguments:
            prepared = getattr(getattr(argument, "inputs", argument), "prepared", None)
            self.counts = prepared.counts if prepared is not None else self.counts
        raise SystemExit(ACCEPTED)


@final
class Box:
    """An empty world: a folder to work in, and others that must stay empty."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.work, self.forbidden = root / "work", [root / "home", root / "temporary"]
        for folder in (self.work, *self.forbidden):
            folder.mkdir()
        monkeypatch.chdir(self.work)
        monkeypatch.setenv("HOME", str(root / "home"))
        monkeypatch.setenv("TMPDIR", str(root / "temporary"))
        monkeypatch.setenv("ALIGNKIT_CACHE", str(root / "cache"))
        monkeypatch.setattr(tempfile, "tempdir", str(root / "temporary"))
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache" / "datasets")

    def strangers(self, case: Case) -> list[str]:
        """Files where the case did not put them."""
        own = [self.work / file for file in case.files]
        found = [path for folder in (self.work, *self.forbidden) for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
        return [str(path) for path in found if not any(path == file or file in path.parents for file in own)]


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    return Box(tmp_path, monkeypatch)


def run_here(case: Case, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Stop]:
    """The command's own `main` in this process, up to where it would begin its work."""
    stop = Stop()
    for place in {TRAINING, case.until or UNTIL.get(case.command, TRAINING)}:
        module, _, name = place.partition(":")
        monkeypatch.setattr(importlib.import_module(module), name, stop)
    for name, value in case.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", [case.command, *case.argv])
    monkeypatch.setattr(sys, "stdin", io.StringIO(case.stdin))
    if case.growing:
        for place in ("alignkit.data.lines:open_bytes", "alignkit.data.parquet_rows:_opened"):
            grow(place, monkeypatch)
    if case.shared:
        compose_once(case, monkeypatch)
    main: Callable[[], int] = importlib.import_module(case.command).main
    return main(), stop


def grow(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody adds an empty line to each file that is opened here."""
    module, _, name = place.partition(":")
    owner = importlib.import_module(module)
    original = getattr(owner, name)

    def opened(file: Path) -> Any:
        content = original(file)
        with file.open("ab") as other:
            other.write(b"\n")
        return content

    monkeypatch.setattr(owner, name, opened)


def compose_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare Hydra what it has done already for another file; what is checked of files is checked again."""
    if case.command == "alignkit.generate":
        owner, name = importlib.import_module(case.command), "parse"
        file = {}
    else:
        owner, name = importlib.import_module("alignkit.train"), "read_command"
        typed = dict(argument.split("=", 1) for argument in case.argv)
        file = {"path": typed["dataset.path"], "streaming": typed.get("dataset.streaming") == "true"} if is_plain(typed) else {}
    rest = tuple(argument for argument in case.argv if not file or not argument.startswith(("dataset.path=", "dataset.streaming=")))
    key, compose = (case.command, rest), getattr(owner, name)

    def remembered(arguments: Any) -> Any:
        if key not in COMPOSED:
            COMPOSED[key] = compose(arguments)
        composed = COMPOSED[key]
        if file:
            (job,) = composed.jobs
            settings = dataclasses.replace(job.settings, dataset=dataclasses.replace(job.settings.dataset, **file))
            composed = dataclasses.replace(composed, jobs=(dataclasses.replace(job, settings=settings),))
        check_paths(composed.jobs[0].settings if case.command == "alignkit.train" else composed.generation.settings)
        return composed

    monkeypatch.setattr(owner, name, remembered)


def is_plain(typed: dict[str, str]) -> bool:
    """Whether the file's name means itself in Hydra's grammar."""
    return re.fullmatch(r"[\w.-]+", typed.get("dataset.path", "")) is not None and typed["dataset.path"] != "null"


def marks(case: Case) -> list[pytest.MarkDecorator]:
    """Of twins, which go through nearly the same code once more, every change runs an eighth."""
    return [pytest.mark.slow] if case.twin and zlib.crc32(case.id.encode()) % 8 else []


@pytest.mark.parametrize("case", [pytest.param(case, id=case.id, marks=marks(case)) for case in CASES])
def test_a_bad_input_is_refused_or_counted(
    case: Case, box: Box, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    if case.not_as_root and os.geteuid() == 0:
        pytest.skip("root may read everything")
    case.write(box.work)
    code, stop = run_here(case, monkeypatch)
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err, err
    if case.refused is None:
        assert (code, err) == (ACCEPTED, f"{ACCEPTED}\n"), err
        assert stop.reached
        assert stop.counts is not None or not case.counts, f"{case.until} is not told the counts"
        assert dict(case.counts or {}).items() <= (stop.counts or {}).items(), stop.counts
    else:
        assert not stop.reached, f"accepted, with the counts {stop.counts}"
        assert_refused(case, code, err)
        assert box.strangers(case) == []
    if case.says is not None:
        assert re.search(case.says, out, re.DOTALL), out


def assert_refused(case: Case, code: int, err: str) -> None:
    """One message, and the one that was meant."""
    assert case.refused is not None
    assert re.search(case.refused, err), err
    assert code == case.exit, err
    assert len(err.strip().split("\n")) == case.lines, err


def test_a_real_command_says_the_same(commands: Callable[..., Any], tmp_path: Path) -> None:
    real = [case for case in CASES if case.real]
    orders = []
    for case in real:
        work = tmp_path / case.id
        work.mkdir()
        case.write(work)
        environment = {"ALIGNKIT_CACHE": str(tmp_path / "cache"), **case.environment}
        orders.append(
            commands.order(*case.argv, command=case.command, log=tmp_path / f"{case.id}.log", folder=work, environment=environment)  # type: ignore[attr-defined]
        )
    codes: Sequence[int] = commands.together(*orders)  # type: ignore[attr-defined]
    for case, code in zip(real, codes, strict=True):
        said = (tmp_path / f"{case.id}.log").read_text(encoding="utf-8")
        assert case.refused is not None
        assert (code, bool(re.search(case.refused, said))) == (case.exit, True), said
        assert "Traceback" not in said
        assert {path.name for path in (tmp_path / case.id).iterdir()} == {Path(name).parts[0] for name in case.files}
