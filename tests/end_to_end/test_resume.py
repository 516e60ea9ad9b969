"""`python -m alignkit.train resume=DIR`: a run that was stopped anywhere and resumed leaves what one leaves that was not, to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from alignkit.metrics import metric
from alignkit.run_dir import RunDir, read_jsonl

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder

from equal_runs import check_equal, rows

SHORT = [
    "steps=6",
    "validation.every=2",
    "validation.samples=1",
    "validation.sample_tokens=3",
    "logger=jsonl",
    "logger.every=1",
    "hardware.threads=1",
    "batch.pairs=2",
    "dataset.pairs=12",
    "dataset.validation_examples=2",
    "schedule.warmup_steps=1",
    "callbacks.progress_bar=false",
]
SAMPLED = ["scorer=vader", "rollout.samples=2", "rollout.max_tokens=6", "loss.epochs=2"]
RUNS = {
    "ppo": ["loss=ppo", *SAMPLED, "loss.minibatches=2", "logger.every=2"],
    "con_dph": ["loss=con_dph", "loss.head.dropout=0.3"],
    "rloo": ["loss=rloo", *SAMPLED, "loss.kl_target=1", "loss.kl_horizon=20", "rollout.reuse=2"],
}
OTHERS = {
    "separate value trunk, moving reference": ["loss=ppo", *SAMPLED, "loss.value_trunk=separate", "reference=moving"],
    "adapters with dropout": ["loss=dpo", "model.adapter=lora", "model.lora.dropout=0.2", "reference=memory"],
    "adapters that sample": ["loss=grpo", *SAMPLED, "model.adapter=lora", "reference=memory", "optimizer=laprop"],
    "running level": ["loss=bco"],
    "natural gradient": ["loss=trpo", *SAMPLED[:3]],
}
ROW = "alignkit.run_dir:RunDir.append_metrics"
SAMPLED_TOKEN = "alignkit.sampling.trunk_sampler:TrunkSampler._draw"
CHECKPOINT = "alignkit.callbacks.checkpoint_files:CheckpointFiles.save_checkpoint"
RESULTS = "alignkit.run_dir:RunDir.write_results"
Commands = Callable[..., int]


@pytest.fixture(scope="module")
def straight(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunDir]:
    """A run that nobody stops, of each of `RUNS`."""
    done: dict[str, RunDir] = {}

    def of(name: str) -> RunDir:
        if name not in done:
            folder = tmp_path_factory.mktemp(name.replace(" ", "_").replace(",", ""))
            log = folder / "log.txt"
            assert commands(*SHORT, *{**RUNS, **OTHERS}[name], f"run_dir={folder / 'run'}", log=log) == 0, log.read_text()
            done[name] = RunDir(folder / "run")
        return done[name]

    return of


KILLS = [
    # calls that log: 1 val@0, 2 train@1, 3 train@2, 4 val@2, checkpoint, 5 train@3, 6 train@4, 7 val@4, checkpoint, ...
    pytest.param("con_dph", [(signal.SIGKILL, ROW, 5)], id="after the first step past a checkpoint"),
    pytest.param("rloo", [(signal.SIGKILL, ROW, 9), (signal.SIGKILL, ROW, 2)], id="twice, with earlier samples"),
    pytest.param("ppo", [(signal.SIGKILL, SAMPLED_TOKEN, 33)], id="while it samples"),
    pytest.param("ppo", [(signal.SIGKILL, CHECKPOINT, 4)], id="before a checkpoint is written"),
    pytest.param("ppo", [(signal.SIGTERM, SAMPLED_TOKEN, 27)], id="by SIGTERM half way to a row of metrics"),
    pytest.param("con_dph", [(signal.SIGKILL, RESULTS, 1)], id="after its last step"),
    # 1 of the best weights, 2 of step 2
    pytest.param("con_dph", [(signal.SIGKILL, "alignkit.manifests:Manifest.write", 2)], id="before its first checkpoint was whole"),
]


@pytest.mark.parametrize(("name", "stops"), KILLS)
def test_a_run_that_was_stopped_and_resumed_is_the_one_that_was_not(name, stops, commands, straight, tmp_path):
    log, run = tmp_path / "log.txt", RunDir(tmp_path / "run")
    argv = [*SHORT, *RUNS[name], f"run_dir={run.path}"]
    for number, at, call in stops:
        code = commands(*argv, log=log, signal=number, at=at, call=call)
        assert code == (143 if number == signal.SIGTERM else -number), log.read_text()
        argv = [f"resume={run.path}"]
    (run.path / "failure.json").write_text("{}")  # of a job of a sweep
    assert commands(*argv, log=log) == 0, log.read_text()
    assert not (run.path / "failure.json").exists()
    assert log.read_text().count("resume: from step") == len(stops)
    assert "Warning" not in log.read_text()
    check_equal(run, straight(name))


def test_a_finished_run_says_so(commands, straight, tmp_path):
    log, finished = tmp_path / "log.txt", straight("con_dph")
    assert commands(f"resume={finished.path}", log=log) == 2
    assert "the run is finished; all of its 6 steps are done" in log.read_text()


def test_a_run_that_samples_leaves_the_files_of_every_run_and_says_what_its_first_update_was_checked_for(straight):
    run = straight("ppo")
    results = json.loads(run.results.read_text())
    certificate = {name.removeprefix("certificate/"): value for name, value in results.items() if name.startswith("certificate/")}
    assert certificate.keys() == {
        "first_ratio_error",
        "first_approx_kl",
        "first_clip_fraction",
        "first_kl_error",
        "stored_tensors_unchanged",
    }
    assert max(certificate["first_ratio_error"], certificate["first_kl_error"]) < 1e-4
    assert certificate["first_clip_fraction"] == 0
    assert [row["step"] for row in rows(run) if "val/objective/kl" in row] == [0, 2, 4, 6]
    assert rows(run)[0]["val/objective/kl"] == pytest.approx(0, abs=1e-5)
    assert all(metric(name.partition("/")[2]).meaning for row in read_jsonl(run.metrics) for name in row if "/" in name)
    assert list(json.loads(run.heads_description.read_text())) != []


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_may_be_stopped_at_any_step(name, number, commands, straight, tmp_path):
    expected = straight(name)
    for at in [ROW] if name == "con_dph" else [ROW, SAMPLED_TOKEN]:
        logged = len(rows(expected))
        for call in range(5, logged + 1) if at == ROW else range(25, 60, 3):
            log, run = tmp_path / f"{at}{call}.txt", RunDir(tmp_path / f"{at}{call}")
            code = commands(*SHORT, *RUNS[name], f"run_dir={run.path}", log=log, signal=number, at=at, call=call)
            if code == 0:  # a signal after the last step
                continue
            assert code == (143 if number == signal.SIGTERM else -number), (call, log.read_text())
            assert commands(f"resume={run.path}", log=log) in (0, 2), (call, log.read_text())
            check_equal(run, expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_whatever_is_trained_goes_on(name, commands, straight, tmp_path):
    log, run = tmp_path / "log.txt", RunDir(tmp_path / "run")
    code = commands(*SHORT, *OTHERS[name], f"run_dir={run.path}", log=log, signal=signal.SIGKILL, at=ROW, call=6)
    assert code == -signal.SIGKILL, log.read_text()
    assert commands(f"resume={run.path}", log=log) == 0, log.read_text()
    check_equal(run, straight(name))


@pytest.mark.slow
def test_a_signal_in_the_last_step_leaves_the_last_validation_to_do(commands, tmp_path):
    log, logged = tmp_path / "log.txt", []
    for name, stop in (("straight", {}), ("stopped", {"signal": signal.SIGTERM, "at": ROW, "call": 8})):  # the row of step 6
        run = RunDir(tmp_path / name)
        argv = [*SHORT, *RUNS["con_dph"], "validation.every=4", f"run_dir={run.path}"]
        assert commands(*argv, log=log, **stop) == (143 if stop else 0), log.read_text()
        if stop:
            assert [row["step"] for row in rows(run) if "val/loss" in row] == [0, 4]
            assert commands(f"resume={run.path}", log=log) == 0, log.read_text()
        logged.append(rows(run))
    assert logged[0] == logged[1]
    assert [row["step"] for row in logged[1] if "val/loss" in row] == [0, 4, 6]


@pytest.mark.slow
def test_the_command_is_killed_from_outside_and_goes_on(straight, tmp_path):
    run = RunDir(tmp_path / "run")
    command = [sys.executable, "-m", "alignkit.train"]
    process = subprocess.Popen([*command, *SHORT, *RUNS["ppo"], f"run_dir={run.path}"], cwd=tmp_path)
    while not (run.last_checkpoint.exists() and len(rows(run)) > 3):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = subprocess.run([*command, f"resume={run.path}"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(f"run: {run.path}")
    check_equal(run, straight("ppo"))
