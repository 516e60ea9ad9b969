"""Sweeps whose jobs, or whose own process, are killed: what is done stays done, and `resume=DIR` runs the rest.

Training is a stand-in, but the jobs' processes and what kills them are real; the last test trains.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alignkit import train as shell
from alignkit.errors import DivergedError, UserError
from alignkit.run_dir import RunDir, Scalar, read_jsonl
from alignkit.settings import RunSettings

Sweep = Callable[..., int]
KILLED, LEFT, BUG, WRONG, DIVERGED, ABORTED, LEFT_QUIETLY, GONE, WAITING = range(101, 110)
"""Seeds of jobs that go wrong unless the file `mended` is there."""


def misbehave(seed: int) -> None:
    if seed == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == LEFT:
        sys.exit(7)
    if seed == BUG:
        raise RuntimeError("a bug")
    if seed == WRONG:
        raise UserError("dataset.path = 'x'; is empty.")
    if seed == DIVERGED:
        raise DivergedError("the loss is nan at step 3.")
    if seed == ABORTED:
        faulthandler.disable()  # pytest's would print all that is here
        os.abort()
    if seed == LEFT_QUIETLY:
        sys.exit(0)
    if seed == GONE:
        os._exit(9)
    if seed == WAITING:
        Path("waiting").write_text(str(os.getpid()))
        time.sleep(60)


def train(settings: RunSettings, run: RunDir, *, resume: bool = False) -> dict[str, Scalar]:
    """Leaves a line in `ran` about each job that was run, with what it was told."""
    told = {"seed": settings.seed, "beta": settings.loss.options["beta"], "run": run.path.name, "resume": resume}
    with Path("ran").open("a", encoding="utf-8") as file:
        file.write(json.dumps(told) + "\n")
    if not Path("mended").exists():
        misbehave(settings.seed)
    results: dict[str, Scalar] = {"val/rewards/accuracies": 1.0, "seconds": 0.1}
    run.append_metrics({"val/loss": 0.5}, step=settings.steps, epoch=1.0)
    run.write_results(results)
    return results


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sweep:
    """Calls the command in this process, in an empty folder, and returns its exit code."""
    training = types.ModuleType("alignkit.training")
    training.train = train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "alignkit.training", training)
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> int:
        monkeypatch.setattr(sys, "argv", ["alignkit-train", *argv])
        return shell.main()

    return run


def ran() -> list[dict[str, Any]]:
    """What jobs were run since the last time."""
    lines = [json.loads(line) for line in Path("ran").read_text().splitlines()]
    Path("ran").unlink()
    return lines


def jobs() -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads(Path("grid/sweep.json").read_text())
    return told


def files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file, with the time of its last change."""
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.rglob("*") if file.is_file()}


BAD = (KILLED, LEFT, BUG, WRONG, DIVERGED, ABORTED, LEFT_QUIETLY, GONE)
SEEDS = [0, 1, KILLED, 2, LEFT, 3, 4, BUG, WRONG, 5, DIVERGED, 6, ABORTED, 7, 8, LEFT_QUIETLY, 9, GONE, 10, 11]
TWENTY = ("-m", "run_dir=grid", "loss=dpo", f"seed={','.join(map(str, SEEDS))}")
WORDS = {
    KILLED: (1, "its process was killed by SIGKILL (the system does that when memory runs out"),
    LEFT: (7, "left with exit code 7 before it was done."),
    BUG: (1, "RuntimeError: a bug"),
    WRONG: (2, "dataset.path = 'x'; is empty."),
    DIVERGED: (3, "the loss is nan at step 3."),
    ABORTED: (1, "its process was killed by SIGABRT"),
    LEFT_QUIETLY: (1, "left with exit code 0 before it was done."),
    GONE: (9, "its process ended with exit code 9 and without a word; see log.txt."),
}


def test_of_twenty_jobs_those_that_die_take_no_other_with_them_and_are_run_again_alone(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(*TWENTY) == 1
    out, error = capsys.readouterr()
    assert [told["seed"] for told in ran()] == SEEDS
    by_seed = dict(zip(SEEDS, jobs(), strict=True))
    assert {seed for seed, job in by_seed.items() if job["status"] != "done"} == set(BAD)
    for seed, (code, words) in WORDS.items():
        job = by_seed[seed]
        assert (job["status"], job["exit_code"]) == ("failed", code)
        assert job["message"].startswith(words)
        assert f"job {job['job']} (seed={seed}) failed: {words}" in error
        assert [str(job["job"]), str(seed), "failed"] in [line.split() for line in out.splitlines()]
    assert f"7 of 20 jobs are left. Run them with: python -m alignkit.train resume={Path('grid').resolve()}" in error
    done = {Path("grid", by_seed[seed]["run"]) for seed in SEEDS if seed not in BAD}
    before = {folder: files(folder) for folder in done}
    Path("mended").touch()
    assert sweep("resume=grid") == 1
    again = ran()
    # What diverged would do so again.
    assert [told["seed"] for told in again] == [seed for seed in SEEDS if seed in BAD and seed != DIVERGED]
    assert {told["run"] for told in again} == {by_seed[told["seed"]]["run"] for told in again}
    assert [job["status"] for job in jobs()] == ["failed" if seed == DIVERGED else "done" for seed in SEEDS]
    assert {folder: files(folder) for folder in done} == before
    assert "13 of 20 jobs had ended before" in capsys.readouterr().out
    assert sweep("resume=grid") == 1
    assert not Path("ran").exists()


@pytest.fixture
def waiting(sweep: Sweep) -> Iterator[Callable[..., int]]:
    """Starts a sweep in a process of its own and returns when its job `WAITING` waits: the process's id."""
    started: list[int] = []

    def start(*argv: str) -> int:
        child = os.fork()
        if child == 0:
            os._exit(sweep(*argv))
        started.append(child)
        for _ in range(600):
            if Path("waiting").exists() and Path("waiting").read_text():
                return child
            time.sleep(0.05)
        raise AssertionError("no job waits")

    yield start
    for child in started:
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            continue


def test_the_sweeps_own_process_is_killed_and_the_rest_is_run(
    waiting: Callable[..., int], sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    child = waiting("-m", "run_dir=grid", "loss=dpo", f"seed=0,{WAITING},2", "loss.beta=0.1,0.2")
    job = int(Path("waiting").read_text())
    assert sweep("resume=grid") == 2
    assert "another process runs this sweep" in capsys.readouterr().err
    os.kill(child, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    for _ in range(200):
        if not Path(f"/proc/{job}").exists():
            break
        time.sleep(0.05)
    assert not Path(f"/proc/{job}").exists(), "the job outlived its sweep"
    assert [told["seed"] for told in ran()] == [0, 0, WAITING]
    Path("mended").touch()
    assert sweep("resume=grid") == 0
    assert [(told["seed"], told["beta"]) for told in ran()] == [(WAITING, 0.1), (WAITING, 0.2), (2, 0.1), (2, 0.2)]
    assert [job["status"] for job in jobs()] == ["done"] * 6
    assert len(list(Path("grid").glob("*/config.yaml"))) == 6


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGUSR1, 143)])
def test_a_signal_to_the_sweep_reaches_its_job_and_ends_the_rest(number: int, code: int, waiting: Callable[..., int], sweep: Sweep) -> None:
    child = waiting("-m", "run_dir=grid", "loss=dpo", f"seed=0,{WAITING},2")
    os.kill(child, number)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == code
    assert [told["seed"] for told in ran()] == [0, WAITING]
    assert [(job["status"], job["exit_code"]) for job in jobs()] == [("done", 0), ("interrupted", code), ("not run", None)]
    Path("mended").touch()
    assert sweep("resume=grid") == 0
    assert [told["seed"] for told in ran()] == [WAITING, 2]


def test_a_sweep_goes_on_from_another_folder_as_where_it_was_typed(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    Path("pairs.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    assert sweep("-m", "run_dir=grid", "loss=dpo", "dataset=local", "dataset.path=pairs.jsonl", f"seed=0,{BUG}") == 1
    grid = Path("grid").resolve()
    logs = grid / jobs()[1]["run"] / "wandb" / "run-1-x" / "logs"
    logs.mkdir(parents=True)
    (logs / "debug-core.log").symlink_to("/somewhere/else")  # as W&B leaves it in a job that is killed
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    (tmp_path / "mended").touch()
    assert sweep(f"resume={grid}") == 0
    assert [told["seed"] for told in ran()] == [0, BUG, BUG]


def test_what_would_be_another_sweep_is_not_gone_on_with(sweep: Sweep, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    option = tmp_path / "own" / "schedule" / "mine.yaml"
    option.parent.mkdir(parents=True)
    option.write_text("name: constant\nwarmup_steps: 0\nfinal_ratio: 1.0\n")
    typed = ("-m", "-cd", "own", "run_dir=grid", "loss=dpo", "schedule=mine", f"seed=0,{BUG}")
    assert sweep(*typed) == 1
    option.write_text("name: constant\nwarmup_steps: 1\nfinal_ratio: 1.0\n")
    assert sweep("resume=grid") == 2
    assert "job 0 (seed=0) would not be what it was" in capsys.readouterr().err
    assert sweep("resume=grid", "steps=9") == 2
    assert "so that steps has no place here" in capsys.readouterr().err
    grid = json.loads(Path("grid/grid.json").read_text())
    Path("grid/grid.json").write_text(json.dumps(grid | {"arguments": [*grid["arguments"][:-1], "seed=0,1,2"]}))
    assert sweep("resume=grid") == 2
    assert "means other jobs by now than 2 in sweep.json" in capsys.readouterr().err


def test_a_directory_of_somebody_else_runs_no_code_and_reaches_nothing_outside(
    sweep: Sweep, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert sweep("-m", "run_dir=grid", "loss=dpo", f"seed=0,{BUG}") == 1
    grid = json.loads(Path("grid/grid.json").read_text())
    Path("grid/grid.json").write_text(json.dumps(grid | {"arguments": [*grid["arguments"], "allow_code=[antigravity]"]}))
    assert sweep("resume=grid") == 2
    assert "If you trust it, type resume=" in capsys.readouterr().err
    Path("grid/grid.json").write_text(json.dumps(grid))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    records = jobs()
    for place in ("../mine", str(tmp_path / "mine"), "linked"):
        records[1]["run"] = place
        Path("grid/sweep.json").write_text(json.dumps(records))
        if place == "linked":
            Path("grid/linked").symlink_to(tmp_path / "mine")
        assert sweep("resume=grid") == 2
        assert ("leads out of it" if place == "linked" else "is no name") in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    Path("grid/linked").unlink()
    for damage in ("[{", "[1]", '[{"job": 0}]'):
        Path("grid/sweep.json").write_text(damage)
        assert sweep("resume=grid") == 2
        assert "sweep.json: cannot be read" in capsys.readouterr().err
        Path("grid/grid.json").write_text(damage)
        assert sweep("resume=grid") == 2
        assert "grid.json cannot be read" in capsys.readouterr().err
        Path("grid/grid.json").write_text(json.dumps(grid))


IN_WORKERS = """
import os, signal, sys, types
from pathlib import Path
def train(settings, run, *, resume=False):
    with Path("ran").open("a") as file:
        file.write(f"{settings.seed}\\n")
    if settings.seed == 2 and not Path("mended").exists():
        Path("mended").touch()
        os.kill(os.getppid(), signal.SIGKILL)  # the launcher's worker, not the job
        signal.pause()
    results = {"val/rewards/accuracies": 1.0, "seconds": 0.1}
    run.append_metrics({"val/loss": 0.5}, step=settings.steps, epoch=1.0)
    run.write_results(results)
    return results
training = types.ModuleType("alignkit.training")
training.train = train
sys.modules["alignkit.training"] = training
"""


@pytest.mark.slow
def test_a_worker_of_joblib_that_is_killed_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(IN_WORKERS)
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])}
    typed = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "run_dir=grid", "loss=dpo", "seed=0,1,2"]
    command = [sys.executable, "-m", "alignkit.train", *typed]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a process of the launcher was killed; " in done.stderr
    told = json.loads((tmp_path / "grid" / "sweep.json").read_text())
    assert [job["status"] for job in told] == ["done"] * 3
    seeds = (tmp_path / "ran").read_text().split()
    assert set(seeds) == {"0", "1", "2"}
    assert seeds.count("2") == 2


SHORT = ["loss=con_dph", "loss.head.dropout=0.3", "steps=4", "validation.every=2", "validation.samples=0", "logger=jsonl", "logger.every=1"]
SHORT += ["batch.pairs=2", "dataset.pairs=12", "dataset.validation_examples=2", "schedule.warmup_steps=1", "callbacks.progress_bar=false"]
ROW = "alignkit.run_dir:RunDir.append_metrics"


def rows(run: RunDir) -> list[dict[str, Any]]:
    """What was logged, without times."""
    timed = ("time", "seconds", "throughput", "peak_memory", "tokens_per_second")
    return [{name: value for name, value in row.items() if not any(word in name for word in timed)} for row in read_jsonl(run.metrics)]


def test_jobs_that_are_killed_while_they_train_go_on_from_their_checkpoints_to_the_same_bits(
    commands: Callable[..., int], tmp_path: Path
) -> None:
    log = tmp_path / "log.txt"
    assert commands(*SHORT, "seed=1", "run_dir=straight", log=log, folder=tmp_path) == 0, log.read_text()
    typed = ["-m", *SHORT, "seed=0,1,2", "run_dir=killed"]
    # 1 val@0, 2 train@1, 3 train@2, 4 val@2, checkpoint, 5 train@3: each job's process is killed after its first checkpoint
    assert commands(*typed, log=log, folder=tmp_path, signal=signal.SIGKILL, at=ROW, call=5) == 1, log.read_text()
    records = json.loads((tmp_path / "killed" / "sweep.json").read_text())
    assert [(job["status"], job["exit_code"]) for job in records] == [("failed", 1)] * 3
    assert commands("resume=killed", log=log, folder=tmp_path) == 0, log.read_text()
    killed = [RunDir(tmp_path / "killed" / record["run"]) for record in records]
    assert ["resume: from step 2" in (run.path / "log.txt").read_text() for run in killed] == [True] * 3
    straight = RunDir(tmp_path / "straight")
    assert rows(killed[1]) == rows(straight) != rows(killed[0])
    assert (killed[1].model / "model.safetensors").read_bytes() == (straight.model / "model.safetensors").read_bytes()
    assert killed[1].heads.read_bytes() == straight.heads.read_bytes()
