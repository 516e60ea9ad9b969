"""`python -m alignkit.pipeline experiment=NAME workers=2` with real stages of a few steps, killed in the middle and typed again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from alignkit import pipeline as shell
from alignkit.run_dir import RunDir

EXPERIMENT = """\
# Three jobs that share their first stage, and one that fails.
question: Does the margin grow?
common:
  - seed=0
  - hardware.threads=1
  - steps=2
  - schedule.warmup_steps=0
  - validation.every=2
  - validation.samples=0
  - dataset.pairs=16
  - dataset.validation_examples=4
  - batch.pairs=4
  - logger=jsonl
  - callbacks.progress_bar=false
  - callbacks.checkpoints=false
pipelines:
  tuned: {sft: {options: [loss=sft]}, policy: {from: ["model.path={sft}/model"]}}
  doomed: {ppo: {options: [loss=ppo, scorer=python, scorer.callable=faulty.score, rollout.max_tokens=4]}}
arms:
  dpo: [pipeline=tuned, stages.policy.loss=dpo, "stages.policy.loss.beta=0.1,0.5"]
  ipo: [pipeline=tuned, stages.policy.loss=ipo]
  doomed: [pipeline=doomed]
sizes:
  safe: {arms: {dpo: [], ipo: []}}
answer: comparison
"""
FAULTY = "def score(prompts, completions):\n    raise OverflowError('too good')\n"


def children_of(process: int) -> list[int]:
    told = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False).stdout
    return [int(line) for line in told.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="asks ps for the children of a process")
@pytest.mark.slow  # its twin: a stopped pipeline that is typed again
def test_killed_in_the_middle_and_typed_again_it_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "margin.yaml").write_text(EXPERIMENT)
    (tmp_path / "faulty.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(tmp_path)
    folder, log = tmp_path / "runs", tmp_path / "log.txt"
    argv = ["-cd", str(tmp_path), "experiment=margin", "allow_code=[faulty]", f"run_dir={folder}"]
    command = [sys.executable, "-m", "alignkit.pipeline", *argv, "workers=2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    first = RunDir(folder / "0-dpo-beta=0.1" / "sft")

    with log.open("w") as file, subprocess.Popen(command, stdout=file, stderr=file, env=environment, cwd=tmp_path) as process:
        while not first.results.exists():
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)
        workers = children_of(process.pid)
        process.send_signal(signal.SIGKILL)
    assert len(workers) >= 2
    for _ in range(100):  # nobody goes on working where the next command will
        if not any(Path(f"/proc/{worker}").exists() and worker in children_of(1) for worker in workers):
            break
        time.sleep(0.1)
    else:
        raise AssertionError(f"workers outlive the command: {workers}")
    jobs = json.loads((folder / "sweep.json").read_text())
    assert [job["status"] for job in jobs if job["arm"] != "doomed"] == ["not run"] * 3
    assert not (folder / "answer").exists()

    finished_at = os.stat(first.results).st_mtime_ns
    monkeypatch.setattr(sys, "argv", ["alignkit-pipeline", *argv])
    assert shell.main() == 1
    out, errors = capfd.readouterr()
    assert "job 3 (doomed) failed: OverflowError: too good" in errors
    assert "OverflowError: too good" in (folder / "3-doomed" / "log.txt").read_text()
    jobs = json.loads((folder / "sweep.json").read_text())
    assert [(job["arm"], job["status"]) for job in jobs] == [("dpo", "done"), ("dpo", "done"), ("ipo", "done"), ("doomed", "failed")]
    assert os.stat(first.results).st_mtime_ns == finished_at
    assert not list(folder.glob("[12]-*/sft"))
    assert out.startswith("Does the margin grow?\n")
    assert f"answer: {folder / 'answer'}" in out

    answer = folder / "answer"
    assert {file.name for file in answer.iterdir()} == {"table.csv", "table.md", "findings.md", "figure.png", "figure.svg"}
    assert (answer / "findings.md").read_text().startswith("# Does the margin grow?\n\n- val/loss: best is ")
    assert {"dpo", "ipo"} <= {line.split(",")[0] for line in (answer / "table.csv").read_text().splitlines()}
    for file in answer.iterdir():
        file.unlink()
    finished = {file: os.stat(file).st_mtime_ns for file in folder.glob("*/*/results.json")}
    monkeypatch.setattr(sys, "argv", ["alignkit-pipeline", *argv, "size=safe"])
    assert shell.main() == 0
    assert {file: os.stat(file).st_mtime_ns for file in folder.glob("*/*/results.json")} == finished
    assert len(list(answer.iterdir())) == 5
