"""`python -m alignkit.train` around training: directories, exit codes, messages, sweeps. Training itself is a stand-in here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from alignkit import train as shell
from alignkit.errors import DivergedError, UserError
from alignkit.job import claim
from alignkit.run_dir import RunDir, Scalar
from alignkit.settings import RunSettings

Train = Callable[..., int]

RESULTS: dict[str, Scalar] = {
    "start/val/rewards/accuracies": 0.5,
    "val/rewards/accuracies": 0.75,
    "val/rewards/margins": 1.25,
    "val/loss": 0.4321,
    "formula": "L = 0",
    "seconds": 61.0,
    "peak_memory_bytes": 3 * 2**30,
    "data/read": 10,
}

ENDINGS = [
    (UserError("dataset.path = 'x'; is empty."), 2, "dataset.path = 'x'; is empty."),
    (DivergedError("the loss is nan at step 3."), 3, "the loss is nan at step 3."),
    (KeyboardInterrupt(), 130, "stopped by Ctrl-C."),
    (SystemExit(143), 143, "stopped by SIGTERM."),
    (RuntimeError("a bug"), 1, "Traceback"),
]
BY_SEED = {seed: error for seed, (error, _, _) in enumerate(ENDINGS, start=101)}
"""What training raises, by `seed=`."""


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[RunSettings]:
    """The settings of every run that the stand-in was asked for, in an empty working directory."""
    asked: list[RunSettings] = []

    def train(settings: RunSettings, run: RunDir) -> dict[str, Scalar]:
        asked.append(settings)
        if settings.seed in BY_SEED:
            raise BY_SEED[settings.seed]
        results = RESULTS | {"val/loss": settings.loss.options.get("beta")}
        run.write_results(results)
        return results

    assembly = types.ModuleType("alignkit.training")
    assembly.train = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "alignkit.training", assembly)
    monkeypatch.setattr("alignkit.sweeping.jobs.SHARING", ())  # jobs of sweeps stay in this process too
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.chdir(tmp_path)
    return asked


@pytest.fixture
def command(trained: list[RunSettings], monkeypatch: pytest.MonkeyPatch) -> Train:
    """Calls the command in this process and returns its exit code."""

    def run(*argv: str) -> int:
        monkeypatch.setattr(sys, "argv", ["alignkit-train", *argv])
        return shell.main()

    return run


def test_a_run_ends_with_a_table_and_its_directory(command: Train, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command("run_dir=mine") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["val/rewards/accuracies", "0.5", "0.75"] in lines
    assert ["val/loss", "0.1"] in lines
    assert ["seconds", "61"] in lines
    assert ["peak_memory", "3.00", "GiB"] in lines
    assert lines[-1] == ["run:", str(tmp_path / "mine")]
    assert not [line for line in lines if line and line[0] in ("formula", "data/read")]


def test_the_config_that_was_used_is_saved_and_nothing_else_is_left(command: Train, trained: list[RunSettings], tmp_path: Path) -> None:
    assert command("run_dir=mine", "loss=con_dph", "steps=300") == 0
    saved = OmegaConf.load(tmp_path / "mine" / "config.yaml")
    assert (saved.loss.beta, saved.steps, saved.run_dir) == (0.1, 300, str(tmp_path / "mine"))
    assert trained[0].run_dir == str(tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.yaml", "mine", "results.json"]


def test_a_default_directory_is_named_after_loss_and_model(command: Train, tmp_path: Path) -> None:
    assert command("loss=dpo") == 0
    (run,) = tmp_path.glob("runs/*/*")
    assert run.name.endswith("-dpo-tiny")


def test_two_runs_of_one_second_get_two_directories(tmp_path: Path) -> None:
    names = [claim(str(tmp_path / "runs" / "12-00-00-dpo-tiny"), named=False).path.name for _ in range(3)]
    assert names == ["12-00-00-dpo-tiny", "12-00-00-dpo-tiny-2", "12-00-00-dpo-tiny-3"]


def test_a_directory_that_holds_a_run_is_refused(command: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("run_dir=mine") == 0
    assert command("run_dir=mine") == 2
    assert "holds a run already" in capsys.readouterr().err


@pytest.mark.parametrize(("seed", "code", "words"), [(seed, code, words) for seed, (_, code, words) in enumerate(ENDINGS, start=101)])
def test_every_ending_has_its_exit_code(command: Train, capsys: pytest.CaptureFixture[str], seed: int, code: int, words: str) -> None:
    assert command("run_dir=mine", f"seed={seed}") == code
    error = capsys.readouterr().err
    assert words in error
    assert ("Traceback" in error) == (code == 1)


def test_wrong_input_that_training_found_leaves_the_directory_free(
    command: Train, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command("run_dir=mine", "seed=101") == 2
    assert "run:" not in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert command("run_dir=mine") == 0


def test_debug_shows_where_a_users_mistake_was_noticed(command: Train, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["seed=101"], ["loss=con_dpo"], ["steps=0"]):
        assert command("debug=true", *argv) == 2
        error = capsys.readouterr().err
        assert "Traceback" in error
        assert "UserError" in error


def test_a_mistake_makes_nothing(command: Train, trained: list[RunSettings], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for argv in (
        ["loss=con_dpo"],
        ["loss.epsilon=0.7"],
        ["-m", "loss.beta=0.1,0.2,abc"],
        ["-m", "loss.epsilon=0.1,0.2,0.6"],
        ["--cfg", "jbo"],
    ):
        assert command(*argv) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
    assert trained == []
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_goes_on_after_a_failure_and_says_which_job_failed(
    command: Train, trained: list[RunSettings], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command("-m", "loss=cdpo", "run_dir=grid", "loss.beta=0.05,0.5", "seed=0,105,101") == 1
    out, error = capsys.readouterr()
    grid = tmp_path / "grid"
    jobs = json.loads((grid / "sweep.json").read_text())
    assert [job["status"] for job in jobs] == ["done", "failed", "failed"] * 2
    assert [job["exit_code"] for job in jobs] == [0, 1, 2] * 2
    assert [job["run"] for job in jobs][:2] == ["0-beta=0.05,seed=0", "1-beta=0.05,seed=105"]
    assert jobs[2]["message"] == "dataset.path = 'x'; is empty."
    assert jobs[3]["overrides"] == ["loss.beta=0.5", "seed=0"]
    assert jobs[3]["results"]["val/loss"] == 0.5
    assert "job 1 (loss.beta=0.05 seed=105) failed: RuntimeError: a bug" in error
    rows = [line.split() for line in out.splitlines()]
    assert ["job", "loss.beta", "seed", "status", "val/rewards/accuracies", "val/rewards/margins", "val/loss"] in rows
    assert ["3", "0.5", "0", "done", "0.75", "1.25", "0.5"] in rows
    assert rows[-1] == ["run:", str(grid)]
    assert sorted(path.name for path in grid.iterdir()) == sorted(["grid.json", "sweep.json", *(job["run"] for job in jobs)])
    assert sorted(path.name for path in (grid / jobs[0]["run"]).iterdir()) == ["config.yaml", "log.txt", "results.json"]


@pytest.mark.parametrize(("seed", "code"), [(103, 130), (104, 143)])
def test_an_interruption_ends_the_sweep(
    command: Train, trained: list[RunSettings], capsys: pytest.CaptureFixture[str], tmp_path: Path, seed: int, code: int
) -> None:
    assert command("-m", "run_dir=grid", f"seed=0,{seed},2,3") == code
    assert [settings.seed for settings in trained] == [0, seed]
    jobs = json.loads((tmp_path / "grid" / "sweep.json").read_text())
    assert [job["status"] for job in jobs] == ["done", "interrupted", "not run", "not run"]
    assert "2 of 4 jobs were not run." in capsys.readouterr().err


def test_a_sweep_runs_each_job_with_its_own_settings(command: Train, trained: list[RunSettings], tmp_path: Path) -> None:
    assert command("loss=dpo,cdpo", "-m", "loss.beta=0.1,0.2") == 0
    assert [(settings.loss.name, settings.loss.options["beta"]) for settings in trained] == [
        ("dpo", 0.1),
        ("dpo", 0.2),
        ("cdpo", 0.1),
        ("cdpo", 0.2),
    ]
    (sweep,) = tmp_path.glob("runs/*/*-sweep")
    assert {settings.logger.group for settings in trained} == {sweep.name}
    assert [Path(settings.run_dir).name for settings in trained] == [
        f"{i}-loss={s.loss.name},beta={b}" for i, (s, b) in enumerate(zip(trained, [0.1, 0.2] * 2, strict=True))
    ]
    assert all((Path(settings.run_dir) / "config.yaml").exists() for settings in trained)
    assert list(tmp_path.iterdir()) == [tmp_path / "runs"]


def test_a_sweep_in_a_taken_directory_is_refused(command: Train, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command("-m", "run_dir=grid", "seed=1,2") == 0
    assert command("-m", "run_dir=grid", "seed=1,2") == 2
    assert "is taken already" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert command("-m", "run_dir=file", "seed=1,2") == 2


def test_a_sweep_takes_any_directory_name(command: Train, tmp_path: Path) -> None:
    assert command("-m", r'run_dir="${oc.env:ALIGNKIT_PLACE,here}/it\'s, = my grid"', "seed=1,2") == 0
    assert (tmp_path / "here" / r"it\'s, = my grid" / "sweep.json").exists()


def test_questions_are_answered_without_running(command: Train, trained: list[RunSettings], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--cfg", "job", "loss=ipo", "loss.beta=0.3") == 0
    assert OmegaConf.create(capsys.readouterr().out).loss.beta == 0.3
    assert command("--cfg", "job", "loss.betta=0.3") == 2
    assert "Did you mean 'beta'?" in capsys.readouterr().err
    assert command("--cfg", "job", "-m") == 2
    assert command("--resolve") == 2
    assert trained == []


def test_tab_completion_knows_options_and_keys(command: Train, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_LINE", "alignkit-train loss=con_")
    assert command("-sc", "query=bash") == 0
    assert capsys.readouterr().out.split() == ["loss=con_dph"]
    monkeypatch.setenv("COMP_LINE", "alignkit-train optimizer.l")
    assert command("-sc", "query=bash") == 0
    assert capsys.readouterr().out.split() == ["optimizer.lr="]
    assert command("-sc", "install=bash") == 0
    assert "complete -o nospace" in capsys.readouterr().out


def run_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "error"}, timeout=60
    )
    print(f"{time.perf_counter() - started:.2f} s  {' '.join(arguments)}")
    return done


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("loss=con_dpo", "unknown loss 'con_dpo'; "),
        ("loss.epsilon=0.7", "loss.epsilon = 0.7; must be a number in [0, 0.5)"),
        ("loss.beta=[0.1", "cannot read 'loss.beta=[0.1'"),
        ("--lss", "unrecognized arguments: --lss"),
    ],
)
def test_a_process_answers_a_mistake_in_one_message(typed: str, answer: str) -> None:
    done = run_process("-m", "alignkit.train", typed)
    assert done.returncode == 2
    assert done.stderr.startswith(answer)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_help_names_every_option_of_every_group() -> None:
    done = run_process("-m", "alignkit.train", "--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for words in ("* con_dph ", "ultrafeedback ", "hf  ", "bf16_true", "steps: 150", "loss.beta=0.05,0.1,0.5", 'eval "$(alignkit-train'):
        assert words in done.stdout


HEAVY = "{'torch', 'transformers', 'lightning', 'datasets', 'wandb', 'pandas'}"


@pytest.mark.parametrize("typed", ["", "loss=con_dpo", "loss.beta=abc", "steps=0", "--help"])
def test_nothing_heavy_is_imported_before_the_config_is_known_to_be_good(typed: str) -> None:
    call = f"sys.argv = ['alignkit-train', {typed!r}]; alignkit.train.main(); " if typed else ""
    done = run_process("-c", f"import sys, alignkit.train; {call}print('heavy:', {HEAVY} & sys.modules.keys())")
    assert done.stdout.splitlines()[-1] == "heavy: set()"
