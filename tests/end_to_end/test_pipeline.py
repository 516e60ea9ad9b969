"""`python -m alignkit.pipeline` with real stages of a few steps: what they hand on, and what is left after a process was stopped."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from alignkit import pipeline as shell
from alignkit.command_line import precheck
from alignkit.job import carry_out
from alignkit.run_dir import RunDir, read_jsonl

SHORT = [
    "hardware.threads=1",
    "steps=4",
    "schedule.warmup_steps=1",
    "validation.every=2",
    "validation.samples=1",
    "validation.sample_tokens=4",
    "logger=jsonl",
    "logger.every=1",
    "dataset.pairs=32",
    "dataset.validation_examples=8",
    "batch.pairs=4",
    "callbacks.progress_bar=false",
]
Command = Callable[..., int]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Calls the command in this process and returns its exit code."""

    def run(*argv: str) -> int:
        monkeypatch.setattr(sys, "argv", ["alignkit-pipeline", *SHORT, *argv])
        return shell.main()

    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of `pipeline=dpo` that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole") / "all"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["alignkit-pipeline", *SHORT, "pipeline=dpo", f"run_dir={folder}"])
        assert shell.main() == 0
    return folder


def numbers(run: Path) -> list[dict[str, object]]:
    """The metrics of a run that its settings decide."""
    rows = read_jsonl(RunDir(run).metrics)
    return [{name: value for name, value in row.items() if name != "time" and "throughput" not in name} for row in rows]


def statuses(folder: Path) -> list[str]:
    return [stage["status"] for stage in json.loads((folder / "pipeline.json").read_text())["stages"]]


def test_a_stage_is_the_run_that_its_overrides_say_to_the_bit(whole: Path, tmp_path: Path) -> None:
    sft, dpo = (whole / name for name in ("sft", "dpo"))
    _, record = json.loads((whole / "pipeline.json").read_text())["stages"]
    (settings,) = precheck([line.replace("{sft}", str(sft)) for line in record["overrides"]])
    carry_out(settings, RunDir.create(tmp_path / "alone"))
    assert numbers(tmp_path / "alone") == numbers(dpo)
    assert RunDir(dpo).model.is_dir()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_stopped_pipeline_typed_again_ends_as_one_that_was_not(
    command: Command, commands: Command, whole: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    argv, log, stopped = ["pipeline=dpo", f"run_dir={tmp_path / 'stopped'}"], tmp_path / "log.txt", tmp_path / "stopped"
    # rows: 7 of sft (val@0, train@1, train@2, val@2, train@3, train@4, val@4), then dpo's; the next would be its train@4
    stop = {"signal": number, "at": "alignkit.run_dir:RunDir.append_metrics", "call": 13}
    assert commands(*SHORT, *argv, command="alignkit.pipeline", log=log, **stop) == code, log.read_text()
    assert {row["step"] for row in read_jsonl(RunDir(stopped / "dpo").metrics)} >= {0, 1, 2, 3}
    assert statuses(stopped) == ["done", "running" if number is signal.SIGKILL else "interrupted"]
    assert ("type the same command with run_dir=" in log.read_text()) == (number is signal.SIGINT)
    finished_at = os.stat(RunDir(stopped / "sft").results).st_mtime_ns
    assert command(*argv) == 0
    assert statuses(stopped) == ["done", "done"]
    assert os.stat(RunDir(stopped / "sft").results).st_mtime_ns == finished_at
    assert numbers(stopped / "dpo") == numbers(whole / "dpo")


def test_jobs_of_a_sweep_read_the_stage_that_they_have_in_common(command: Command, tmp_path: Path) -> None:
    assert command("-m", "pipeline=dpo", f"run_dir={tmp_path}", "stages.dpo.loss.beta=0.1,0.5", "stages.dpo.steps=2") == 0
    first, second = tmp_path / "0-beta=0.1", tmp_path / "1-beta=0.5"
    assert not (second / "sft").exists()
    starts = [json.loads(RunDir(job / "dpo").results.read_text())["policy_fingerprint"] for job in (first, second)]
    assert starts[0] == starts[1]
    assert numbers(first / "dpo") != numbers(second / "dpo")


def test_ppo_goes_on_from_the_supervised_model_by_the_score_of_the_reward_model(command: Command, tmp_path: Path) -> None:
    argv = ["steps=2", "stages.ppo.rollout.max_tokens=8", "stages.ppo.rollout.samples=2", f"run_dir={tmp_path / 'all'}"]
    assert command("pipeline=rlhf", *argv) == 0
    reward, ppo = (json.loads(RunDir(tmp_path / "all" / name).results.read_text()) for name in ("reward", "ppo"))
    assert ppo["policy_fingerprint"] == reward["policy_fingerprint"] == ppo["reference_fingerprint"]
    assert ppo["val/objective/scores"] is not None


def test_pairs_of_samples_that_a_reward_model_accepted_are_what_dpo_trains_on(command: Command, tmp_path: Path) -> None:
    argv = ["steps=2", "stages.samples.max_tokens=8", "stages.samples.samples=4", "stages.samples.dataset.train_examples=12"]
    assert command("pipeline=rso", *argv, "stages.dpo.dataset.validation_examples=2", f"run_dir={tmp_path / 'all'}") == 0
    kept = list(read_jsonl(tmp_path / "all" / "samples" / "kept.jsonl"))
    assert {"prompt", "chosen", "rejected"} <= kept[0].keys()
    results = json.loads(RunDir(tmp_path / "all" / "dpo").results.read_text())
    assert results["data/rows"] == len(kept)
