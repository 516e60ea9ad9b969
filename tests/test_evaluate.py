"""`python -m alignkit.evaluate` around evaluating: directories, exit codes, what is said. Evaluating itself is a stand-in here."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from alignkit import evaluate as shell
from alignkit.errors import UserError
from alignkit.evaluation_settings import EvaluateSettings, QuestionsSettings
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings

Command = Callable[..., int]
GLUE = "evaluation=glue"
RESULTS: dict[str, Scalar] = {"cola/logp_mean/score": 0.25}
ENDINGS = [
    (UserError("evaluation.path: holds nothing."), 2, "evaluation.path: holds nothing."),
    (KeyboardInterrupt(), 130, "stopped by Ctrl-C."),
    (SystemExit(143), 143, "stopped by SIGTERM."),
    (RuntimeError("a bug"), 1, "Traceback"),
]
BY_SEED = {seed: error for seed, (error, _, _) in enumerate(ENDINGS, start=101)}
"""What evaluating raises, by `seed=`."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[RunSettings, EvaluateSettings]]:
    """What the stand-in was asked for, in an empty working directory."""
    calls: list[tuple[RunSettings, EvaluateSettings]] = []

    def evaluate(settings: RunSettings, own: EvaluateSettings, run: RunDir) -> dict[str, Scalar]:
        calls.append((settings, own))
        print("said on the way")
        if settings.seed in BY_SEED:
            raise BY_SEED[settings.seed]
        run.write_results(RESULTS)
        return RESULTS

    stand_in = types.ModuleType("alignkit.evaluating.run")
    stand_in.evaluate = evaluate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "alignkit.evaluating.run", stand_in)
    monkeypatch.chdir(tmp_path)
    return calls


@pytest.fixture
def command(asked: object, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Calls the command in this process and returns its exit code."""

    def run(*argv: str) -> int:
        monkeypatch.setattr(sys, "argv", ["alignkit-evaluate", *argv])
        return shell.main()

    return run


def test_an_evaluation_ends_with_its_directory_which_says_what_it_was(
    command: Command, asked: list[tuple[RunSettings, EvaluateSettings]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command(GLUE, "evaluation.tasks=[cola]", "scorer=[logp_sum,logp_mean]", "run_dir=mine") == 0
    assert capsys.readouterr().out.splitlines() == ["said on the way", f"run: {tmp_path / 'mine'}"]
    saved = yaml.safe_load(Path("mine/config.yaml").read_text())
    assert (saved["run_dir"], saved["evaluation"]["tasks"], saved["scorers"]) == (
        str(tmp_path / "mine"), ["cola"], ["logp_sum", "logp_mean"],
    )  # fmt: skip
    ((settings, own),) = asked
    assert settings.run_dir == str(tmp_path / "mine")
    assert isinstance(own.evaluation, QuestionsSettings)
    assert own.scorers == ("logp_sum", "logp_mean")


@pytest.mark.parametrize(("seed", "code", "words"), [(seed, code, words) for seed, (_, code, words) in enumerate(ENDINGS, start=101)])
def test_every_ending_has_its_exit_code(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path, seed: int, code: int, words: str
) -> None:
    assert command(GLUE, "run_dir=mine", f"seed={seed}") == code
    said = capsys.readouterr()
    assert words in said.err
    assert ("Traceback" in said.err) == (code == 1)
    assert (f"run: {tmp_path / 'mine'}" in said.out) == (code != 2), "a run that never began leaves its directory free"
    assert Path("mine").exists() == (code != 2)


def test_a_mistake_makes_nothing(command: Command, asked: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    mistakes = [
        [],
        ["evaluation=glu"],
        [GLUE, "evaluation.tasks=[colla]"],
        [GLUE, "evaluation.limit=0"],
        [GLUE, "evaluation.path=nowhere"],
        [GLUE, "scorer=dph"],
        [GLUE, "scorer=[vader,logp_mean]"],
        [GLUE, "model.path=./nowhere"],
        [GLUE, "against=nowhere"],
        [GLUE, "loss=dop"],
        ["evaluation=cost"],
        ["evaluation=win_rate"],
        ["-m", "evaluation=glue,race"],
        ["--cfg", "job"],
        ["--evaluation", "glue"],
    ]
    for argv in mistakes:
        assert command(*argv) == 2, argv
        assert capsys.readouterr().err.count("\n") == 1, argv
    assert asked == []
    assert list(Path.cwd().iterdir()) == []


def test_a_directory_that_holds_a_run_is_refused_and_default_names_differ(command: Command) -> None:
    assert command(GLUE, "run_dir=mine") == 0
    assert command(GLUE, "run_dir=mine") == 2
    assert command(GLUE) == 0
    assert command(GLUE) == 0
    assert len(list(Path.cwd().glob("runs/*/*-evaluate-tiny*"))) == 2


def test_help_is_a_page_of_its_own(command: Command, asked: list[object], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    assert capsys.readouterr().out == shell.HELP
    assert asked == []
