"""`python -m alignkit.generate` around generating: directories, exit codes, where output goes. Generating itself is a stand-in here."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest
import yaml

from alignkit import generate as shell
from alignkit.errors import UserError
from alignkit.generate_settings import GenerateSettings
from alignkit.generation.results import CI95
from alignkit.metrics import SCORES
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings

Command = Callable[..., int]
RESULTS: dict[str, Scalar] = {SCORES: 0.25, SCORES + CI95: 0.125, "prompts": 3}
ENDINGS = [
    (UserError("prompts: there is none."), 2, "prompts: there is none."),
    (KeyboardInterrupt(), 130, "stopped by Ctrl-C."),
    (SystemExit(143), 143, "stopped by SIGTERM."),
    (RuntimeError("a bug"), 1, "Traceback"),
]
BY_SEED = {seed: error for seed, (error, _, _) in enumerate(ENDINGS, start=101)}
"""What generating raises, by `seed=`."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[RunSettings, GenerateSettings]]:
    """What the stand-in was asked for, in an empty working directory."""
    calls: list[tuple[RunSettings, GenerateSettings]] = []

    def generate(settings: RunSettings, own: GenerateSettings, run: RunDir, *, rows: TextIO | None) -> dict[str, Scalar]:
        calls.append((settings, own))
        print("said on the way")
        if settings.seed in BY_SEED:
            raise BY_SEED[settings.seed]
        if own.out == "-":
            assert rows is not None
            rows.write('{"prompt": "p"}\n')
        run.write_results(RESULTS)
        return RESULTS

    stand_in = types.ModuleType("alignkit.generation.run")
    stand_in.generate = generate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "alignkit.generation.run", stand_in)
    monkeypatch.chdir(tmp_path)
    return calls


@pytest.fixture
def command(asked: object, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Calls the command in this process and returns its exit code."""

    def run(*argv: str) -> int:
        monkeypatch.setattr(sys, "argv", ["alignkit-generate", *argv])
        return shell.main()

    return run


def test_a_run_ends_with_a_table_and_its_directory(command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command("run_dir=mine", "rank_by=vader", "samples=8", "keep=best") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["score", "of", "a", "sample", "0.25", "0.125"] in lines
    assert lines[-1] == ["run:", str(tmp_path / "mine")]
    saved = yaml.safe_load(Path("mine/config.yaml").read_text())
    assert (saved["run_dir"], saved["scorer"]["name"], saved["keep"]) == (str(tmp_path / "mine"), "vader", "best")


def test_rows_alone_go_to_standard_output_where_that_is_asked_for(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("out=-") == 0
    said = capsys.readouterr()
    assert said.out == '{"prompt": "p"}\n'
    assert "said on the way" in said.err
    assert "score of a sample" in said.err
    assert said.err.splitlines()[-1].startswith("run: ")


@pytest.mark.parametrize(("seed", "code", "words"), [(seed, code, words) for seed, (_, code, words) in enumerate(ENDINGS, start=101)])
def test_every_ending_has_its_exit_code(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path, seed: int, code: int, words: str
) -> None:
    assert command("run_dir=mine", f"seed={seed}") == code
    said = capsys.readouterr()
    assert words in said.err
    assert ("Traceback" in said.err) == (code == 1)
    assert (f"run: {tmp_path / 'mine'}" in said.out) == (code != 2), "a run that never began leaves its directory free"
    assert Path("mine").exists() == (code != 2)


def test_a_mistake_makes_nothing(command: Command, asked: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["keep=bst"], ["samples=0"], ["-m", "samples=1,2"], ["--cfg", "job"], ["prompts=nowhere.txt"], ["model.path=./nowhere"]):
        assert command(*argv) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert asked == []
    assert list(Path.cwd().iterdir()) == []


def test_a_directory_that_holds_a_run_is_refused_and_default_names_differ(command: Command) -> None:
    assert command("run_dir=mine") == 0
    assert command("run_dir=mine") == 2
    assert command() == 0
    assert command() == 0
    assert len(list(Path.cwd().glob("runs/*/*-generate-tiny*"))) == 2


def test_help_is_a_page_of_its_own(command: Command, asked: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    assert capsys.readouterr().out == shell.HELP
    assert asked == []
