"""`pipeline=iterative_dpo` with real stages: what a round reads of the one before, rounds that end early, and whether rounds help."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alignkit import pipeline as shell
from alignkit.run_dir import RunDir

Command = Callable[..., int]
SHORT = [
    "hardware.threads=1",
    "steps=2",
    "schedule.warmup_steps=0",
    "validation.every=2",
    "validation.samples=0",
    "logger=jsonl",
    "callbacks.progress_bar=false",
    "callbacks.checkpoints=false",
    "dataset.pairs=64",
    "dataset.validation_examples=6",
    "batch.pairs=4",
    "count=8",
    "samples=3",
    "max_tokens=12",
    "stages.win.samples=1",
    "rounds=2",
]
GOLD = "val/objective/gold"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Calls the command in this process and returns its exit code."""

    def run(*argv: str) -> int:
        monkeypatch.setattr(sys, "argv", ["alignkit-pipeline", "pipeline=iterative_dpo", *argv])
        return shell.main()

    return run


def results(stage: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(RunDir(stage).results.read_text())
    return told


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def statuses(folder: Path) -> dict[str, str]:
    return {stage["stage"]: stage["status"] for stage in json.loads((folder / "pipeline.json").read_text())["stages"]}


def test_rounds_go_on_from_each_other_and_end_where_the_win_rate_is_too_low(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [*SHORT, "judge=self", f"run_dir={tmp_path / 'all'}"]
    whole = tmp_path / "all"
    assert command(*argv, "stop=1") == 0  # no win rate is higher
    told = statuses(whole)
    assert [name for name, status in told.items() if status == "skipped"] == ["labels_2", "dpo_2", "win_2"]
    assert {status for name, status in told.items() if not name.endswith("_2")} == {"done"}
    assert not (whole / "labels_2").exists()
    out = capsys.readouterr().out
    assert "labels_2 is skipped: win_rate of win_1 is " in out
    assert command(*argv, "stop=never") == 0
    assert set(statuses(whole).values()) == {"done"}

    first, second = (rows(whole / f"labels_{number}" / "labels.jsonl") for number in (1, 2))
    assert {row["prompt"] for row in first} != {row["prompt"] for row in second}
    assert {row["provenance"]["model"]["path"] for row in second} == {str(whole / "dpo_1" / "model")}
    assert {row["provenance"]["seed"] for row in second} == {1000}
    # The policy of a round is what the next one begins with and is anchored to; all are validated on the same prompts.
    assert results(whole / "dpo_1")["policy_fingerprint"] != results(whole / "dpo_2")["policy_fingerprint"]
    assert results(whole / "dpo_2")["reference_fingerprint"] == results(whole / "dpo_2")["policy_fingerprint"]
    assert results(whole / "win_2")["opponent_fingerprint"] == results(whole / "dpo_2")["policy_fingerprint"]
    assert {results(whole / f"dpo_{number}")["data/validation"] for number in (1, 2)} == {6}
    assert results(whole / "dpo_1")[GOLD] is not None


@pytest.mark.slow  # its twin is above
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_three_rounds_by_the_true_reward_raise_it_in_each(command: Command, tmp_path: Path, seed: int) -> None:
    argv = ["hardware.threads=1", "logger=jsonl", "validation.samples=0", "stop=never", f"run_dir={tmp_path / 'all'}"]
    assert command(*argv, f"seed={seed}", f"dataset.world_seed={seed}") == 0
    rounds = [results(tmp_path / "all" / f"dpo_{number}") for number in (1, 2, 3)]
    assert all(told[GOLD] > told[f"start/{GOLD}"] for told in rounds)
    assert all(results(tmp_path / "all" / f"win_{number}")["win_rate_low"] > 0.5 for number in (1, 2, 3))
