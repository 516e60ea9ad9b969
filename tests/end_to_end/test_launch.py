"""Runs of several processes, whoever starts them: they agree on one directory, and the one that fails is heard.

Training is a stand-in (`stand_in/sitecustomize.py`): real processes that meet through gloo, without a model.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from alignkit import train as shell
from alignkit.command_line import precheck
from alignkit.configuration import config_yaml
from alignkit.run_dir import RunDir

Command = Callable[..., int]
TWO = ("hardware=ddp", "hardware.accelerator=cpu")
STAND_IN = str(Path(__file__).parent / "stand_in")
PACKAGE = str(Path(__file__).parents[2])


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([STAND_IN, PACKAGE]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Calls the command in this process, whose ranks are others."""

    def run(*argv: str) -> int:
        monkeypatch.setattr(sys, "argv", ["alignkit-train", *argv])
        return shell.main()

    return run


def results(run: Path) -> dict[str, object]:
    return dict(json.loads((run / "results.json").read_text()))


def test_a_run_of_two_processes_is_one_run(command: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command(*TWO, "loss=dpo", "run_dir=mine", "loss.beta=0.2") == 0
    run = tmp_path / "mine"
    reached = results(run)
    assert reached["agreed"] is True
    assert str([str(run), 0.2, 0, True]) in str(reached["told"])
    out, error = capfd.readouterr()
    assert out.startswith("rank 0 trains\n")
    assert out.splitlines()[-1] == f"run: {run}"
    assert "rank 1" not in out
    assert error == ""
    assert (run / "ranks" / "1.log").read_text() == "rank 1 trains\n"
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "metrics.jsonl", "ranks", "results.json"]
    assert [path.name for path in (run / "ranks").iterdir()] == ["1.log"]


@pytest.mark.parametrize(
    ("seed", "code", "first", "kept"),
    [
        (101, 2, "rank 1 of 2: dataset.path = 'x'; is empty.", False),
        (102, 3, "rank 1 of 2: the loss is nan at step 3.", True),
        (103, 1, "rank 1 of 2: RuntimeError: a bug on one rank", True),
        (104, 1, "rank 1 of 2: killed by SIGKILL (the system does that when memory runs out", True),
    ],
)
def test_the_rank_that_failed_is_heard_and_no_other(
    command: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path, seed: int, code: int, first: str, kept: bool
) -> None:
    started = time.monotonic()
    assert command(*TWO, "run_dir=mine", f"seed={seed}") == code
    assert time.monotonic() - started < 60
    error = capfd.readouterr().err
    assert error.startswith(first)
    assert ("Traceback" in error) == (seed == 103)
    assert "Connection closed" not in error
    assert "ChildFailedError" not in error
    assert (tmp_path / "mine").exists() == kept


@pytest.mark.parametrize(("number", "code", "words"), [(signal.SIGINT, 130, "stopped by SIGINT after step 1."), (signal.SIGTERM, 143, "")])
def test_a_signal_reaches_all_ranks_which_save(number: signal.Signals, code: int, words: str, tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", "from alignkit.train import main; raise SystemExit(main())", *TWO, "run_dir=mine", "seed=105"]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "mine" / "ready")
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert words in error
    assert (tmp_path / "mine" / "saved").exists()


def torchrun_of(ranks: int, folder: Path) -> list[str]:
    agent = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "--log-dir", str(folder / "torchrun")]
    return [sys.executable, *agent, "-m", "alignkit.train"]


def wait_for(file: Path) -> None:
    for _ in range(600):
        if file.exists():
            return
        time.sleep(0.1)
    raise TimeoutError(file)


def test_a_stopped_run_goes_on_in_as_many_processes(command: Command, tmp_path: Path) -> None:
    (settings,) = precheck([*TWO, "loss=dpo"])
    run = RunDir.create(tmp_path / "stopped")
    run.config.write_text(config_yaml(settings))
    run.checkpoints.mkdir()
    run.last_checkpoint.touch()
    assert command(f"resume={run.path}") == 0
    reached = results(run.path)
    assert (reached["resumed"], reached["agreed"], reached["ranks"]) == (True, True, 2)


def test_ranks_that_torchrun_starts_agree_on_a_directory_of_no_name(tmp_path: Path) -> None:
    torchrun = torchrun_of(2, tmp_path)
    done = subprocess.run([*torchrun, *TWO, "loss=dpo"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("runs/*/*")
    assert results(run)["agreed"] is True
    assert done.stdout.splitlines()[-1] == f"run: {run}"
    assert done.stdout.count("run: ") == 1
    assert (run / "ranks" / "1.log").read_text() == "rank 1 trains\n"


def test_ranks_that_slurm_starts_agree_on_a_directory_of_no_name(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"}
    common |= {"SLURM_NODELIST": "127.0.0.1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    arguments = [sys.executable, "-m", "alignkit.train", "hardware=slurm_ddp", "hardware.devices=2", "loss=dpo"]
    ranks = [
        subprocess.Popen(
            arguments,
            env=os.environ | common | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    (first, first_error), (second, second_error) = (process.communicate(timeout=120) for process in ranks)
    assert [process.returncode for process in ranks] == [0, 0], first_error + second_error
    (run,) = tmp_path.glob("runs/*/*")
    assert results(run)["agreed"] is True
    assert first.splitlines()[-1] == f"run: {run}"
    assert second == ""


def test_a_directory_that_is_taken_is_refused_on_every_rank(tmp_path: Path) -> None:
    RunDir.create(tmp_path / "mine")
    torchrun = torchrun_of(2, tmp_path)
    done = subprocess.run([*torchrun, *TWO, "run_dir=mine"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "holds a run already" in done.stderr
    assert 'Traceback (most recent call last):\n  File "<frozen runpy>"' not in done.stderr.split("holds a run already")[0]
