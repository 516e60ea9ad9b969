"""`python -m alignkit.label` around labelling: directories, exit codes, where output goes, and how it is told to go on. Labelling itself is
a stand-in here."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest
import yaml

from alignkit import label as shell
from alignkit.errors import UserError
from alignkit.label_settings import LabelSettings
from alignkit.labelling.files import JUDGED, LABELS, SOURCES
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings

Command = Callable[..., int]
RESULTS: dict[str, Scalar] = {"labels": 3, "prompts": 4, "left_out/tie": 1, "replies": 0}
ENDINGS = [
    (UserError("prompts: there is none."), 2, "prompts: there is none."),
    (KeyboardInterrupt(), 130, "stopped by Ctrl-C."),
    (SystemExit(143), 143, "stopped by SIGTERM."),
    (RuntimeError("a bug"), 1, "Traceback"),
]
BY_SEED = {seed: error for seed, (error, _, _) in enumerate(ENDINGS, start=101)}
"""What labelling raises, by `seed=`; 100 more: after it has begun."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[RunSettings, LabelSettings]]:
    """What the stand-in was asked for, in an empty working directory."""
    calls: list[tuple[RunSettings, LabelSettings]] = []

    def label(settings: RunSettings, own: LabelSettings, run: RunDir, *, rows: TextIO | None) -> dict[str, Scalar]:
        calls.append((settings, own))
        print("said on the way")
        if settings.seed in BY_SEED:
            raise BY_SEED[settings.seed]
        (run.path / SOURCES).write_text(json.dumps({"config": {"seed": settings.seed}}))
        if settings.seed - 100 in BY_SEED and len(calls) == 1:
            raise BY_SEED[settings.seed - 100]
        if own.out == "-":
            assert rows is not None
            rows.write('{"prompt": "p"}\n')
        for name in (JUDGED, LABELS):
            (run.path / name).write_text("{}\n")
        run.write_results(RESULTS)
        return RESULTS

    stand_in = types.ModuleType("alignkit.labelling.run")
    stand_in.label = label  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "alignkit.labelling.run", stand_in)
    monkeypatch.chdir(tmp_path)
    return calls


@pytest.fixture
def command(asked: object, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Calls the command in this process and returns its exit code."""

    def run(*argv: str) -> int:
        monkeypatch.setattr(sys, "argv", ["alignkit-label", *argv])
        return shell.main()

    return run


def test_a_run_ends_with_a_table_and_its_directory(command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command("judge=gold", "run_dir=mine", "samples=8") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["labels", "3"] in lines
    assert [line[-1] for line in lines if line[:2] == ["left", "out:"]] == ["1"]
    assert "replies" not in [line[0] for line in lines if line]
    assert lines[-1] == ["run:", str(tmp_path / "mine")]
    saved = yaml.safe_load(Path("mine/config.yaml").read_text())
    assert (saved["run_dir"], saved["judge"], saved["form"]) == (str(tmp_path / "mine"), {"name": "scorer", "scorer": "vader"}, "pairs")


def test_rows_alone_go_to_standard_output_where_that_is_asked_for(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("judge=gold", "out=-") == 0
    said = capsys.readouterr()
    assert said.out == '{"prompt": "p"}\n'
    assert "said on the way" in said.err
    assert said.err.splitlines()[-1].startswith("run: ")


@pytest.mark.parametrize(("seed", "code", "words"), [(seed, code, words) for seed, (_, code, words) in enumerate(ENDINGS, start=101)])
def test_every_ending_has_its_exit_code(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path, seed: int, code: int, words: str
) -> None:
    assert command("judge=gold", "run_dir=mine", f"seed={seed}") == code
    said = capsys.readouterr()
    assert words in said.err
    assert ("Traceback" in said.err) == (code == 1)
    assert "Go on with" not in said.err
    assert (f"run: {tmp_path / 'mine'}" in said.out) == (code != 2), "a run that never began leaves its directory free"
    assert Path("mine").exists() == (code != 2)


@pytest.mark.parametrize(("seed", "code"), [(201, 2), (202, 130)])
def test_a_run_that_has_begun_says_how_it_goes_on_and_does(
    command: Command,
    asked: list[tuple[RunSettings, LabelSettings]],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    seed: int,
    code: int,
) -> None:
    assert command("judge=gold", "run_dir=mine", f"seed={seed}", "min_gap=0.25") == code
    said = capsys.readouterr()
    assert f"Go on with: python -m alignkit.label resume={tmp_path / 'mine'}\n" in said.err
    assert command("resume=mine", "hardware.threads=1", "out=copy.jsonl") == 0
    first, second = asked
    assert second[1].out == "copy.jsonl"
    assert (second[0].hardware.threads, second[0].seed, second[1].min_gap) == (1, seed, 0.25)
    assert yaml.safe_load(Path("mine/config.yaml").read_text())["hardware"]["threads"] == 1
    assert first[1].judge == second[1].judge
    assert command("resume=mine") == 2
    assert (
        capsys.readouterr().err == f"resume = {tmp_path / 'mine'}: the run is finished; its labels are in {tmp_path / 'mine' / LABELS}.\n"
    )


OTHER_ROWS = (
    (["seed=5"], "seed=5 would make another run of it (it began with 202)"),
    (["form=scores"], "form=scores would make another run"),
    (["run_dir=other"], "run_dir=other has no place here"),
    (["resume=other"], "one run goes on at a time"),
    (["-m"], "alignkit.label is one run"),
)


def test_what_would_make_other_rows_is_refused(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command("judge=gold", "run_dir=mine", "seed=202")
    for typed, words in OTHER_ROWS:
        capsys.readouterr()
        assert command("resume=mine", *typed) == 2
        assert words in capsys.readouterr().err
    config = Path("mine/config.yaml")
    config.write_text(config.read_text().replace("seed: 202", "seed: 203"))
    assert command("resume=mine") == 2
    assert "its config.yaml is not what it began with (seed: 202 -> 203)" in capsys.readouterr().err


def test_what_is_no_run_of_labels_does_not_go_on(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    Path("trained").mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        Path("trained", name).write_text("{}\n")
    for path, words in (
        ("nowhere", "there is no such directory"),
        ("trained", "is no run of alignkit.label. Type python -m alignkit.train resume="),
    ):
        assert command(f"resume={path}") == 2
        assert words in capsys.readouterr().err


def test_prompts_of_standard_input_are_gone(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command("judge=gold", "run_dir=mine", "seed=202", "prompts=-")
    assert command("resume=mine") == 2
    assert "came from standard input, which is gone" in capsys.readouterr().err


def test_a_mistake_makes_nothing(command: Command, asked: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["form=pears"], ["-m", "samples=1,2"], ["--cfg", "job"], ["prompts=nowhere.txt"]):
        assert command("judge=gold", *argv) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert asked == []
    assert list(Path.cwd().iterdir()) == []


def test_help_is_a_page_of_its_own(command: Command, asked: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    assert capsys.readouterr().out == shell.HELP
    assert asked == []
