"""Pipelines that train on benchmarks and measure what came of it, with real stages of a few steps."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import AutoModelForCausalLM

from alignkit import pipeline as shell
from alignkit.evaluating import questions as asking
from alignkit.run_dir import RunDir

TINY = Path(__file__).parents[2] / "alignkit/lab/pretrained/tiny"
SHORT = [
    "hardware.threads=1",
    "logger=jsonl",
    "callbacks.progress_bar=false",
    "dataset.max_length=200",
    "dataset.validation_examples=4",
    "batch.pairs=4",
]
Command = Callable[..., int]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Calls the command in this process, on benchmarks of which two have rows to train on, and returns its exit code."""
    rows: dict[str, list[dict[str, Any]]] = {
        "boolq/train": [{"passage": f"Film {n} is long.", "question": f"is film {n} long", "answer": n % 3 > 0} for n in range(16)],
        "boolq/validation": [{"passage": f"Film {n} is good.", "question": f"is film {n} good", "answer": n % 2 == 0} for n in range(6)],
        "glue_cola/train": [{"sentence": f"Film {n} it is." if n % 2 else f"It is film {n}.", "label": n % 2} for n in range(16)],
        "glue_cola/validation": [{"sentence": f"Film {n} is." if n % 2 else f"Is film {n}.", "label": n % 2} for n in range(6)],
        "race/test": [
            {"article": "Ann won.", "question": f"Who won {n}?", "options": ["Ann", "Bob", "Cid", "Dan"], "answer": "ABCD"[n % 4]}
            for n in range(5)
        ],
    }
    for name, own in rows.items():
        file = tmp_path / "bench" / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in own))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def run(*argv: str) -> int:
        monkeypatch.setattr(sys, "argv", ["alignkit-pipeline", *SHORT, f"dataset.path={tmp_path / 'bench'}", *argv])
        return shell.main()

    return run


def results(run: Path) -> dict[str, Any]:
    loaded = json.loads(RunDir(run).results.read_text())
    assert isinstance(loaded, dict)
    return loaded


def statuses(folder: Path) -> list[str]:
    return [stage["status"] for stage in json.loads((folder / "pipeline.json").read_text())["stages"]]


def test_heads_learn_from_tasks_on_a_language_model_that_stays_as_it_was(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    all_stages = tmp_path / "all"
    argv = ["pipeline=task_heads", "stages.heads.steps=4", "schedule.warmup_steps=1", f"run_dir={all_stages}", "dataset.mix=flat"]

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(asking, "outcome_of", lambda *_, **__: stopped())
        assert command(*argv) == 130
    assert statuses(all_stages) == ["done", "interrupted"]
    assert not RunDir(all_stages / "evaluation").results.exists()
    finished_at = os.stat(RunDir(all_stages / "heads").results).st_mtime_ns
    capsys.readouterr()
    assert command(*argv) == 0
    assert statuses(all_stages) == ["done", "done"]
    assert os.stat(RunDir(all_stages / "heads").results).st_mtime_ns == finished_at
    page = capsys.readouterr().out
    assert "evaluation was not finished and is started anew" in page
    assert "boolq: 6 questions in" in page

    heads, told = results(all_stages / "heads"), results(all_stages / "evaluation")
    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (TINY, all_stages / "heads" / "model"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before), "to the bit"
    assert told["fingerprint"] == heads["policy_fingerprint"]
    assert (heads["data/train/boolq"], heads["data/train/cola"]) == (12, 12)
    assert heads["data/tasks_without_rows"] == 15
    assert heads["val/loss"] != heads["start/val/loss"]
    assert {name.split("/")[0] for name in told if name.endswith("/dph/score")} == {"boolq", "cola", "race"}
    lines = [json.loads(line) for line in (all_stages / "evaluation" / "questions.jsonl").read_text().splitlines()]
    assert len(lines) == 6 + 6 + 5
    assert len({tuple(line["scores"]["dph"]) for line in lines}) > 10


def test_the_papers_stages_follow_each_other(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    assert command("pipeline=dph_paper", "steps=1", "schedule.warmup_steps=0", "validation.every=1", f"run_dir={folder}") == 0
    assert statuses(folder) == ["done"] * 7
    vocab, sft, dpo, dph = (results(folder / name) for name in ("vocab", "sft", "dpo", "dph"))
    assert dpo["policy_fingerprint"] == dph["policy_fingerprint"] == dpo["reference_fingerprint"], "both begin from the same model"
    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (TINY, folder / "vocab" / "model"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all("embed" in name or "lm_head" in name for name in moved), "the vocabulary stage moves embeddings alone"
    assert vocab["policy_fingerprint"] != sft["policy_fingerprint"] != dpo["policy_fingerprint"]
    measured = {name: results(folder / f"{name}_measured") for name in ("sft", "dpo", "dph")}
    assert measured["sft"]["fingerprint"] == dpo["policy_fingerprint"]
    assert len({own["fingerprint"] for own in measured.values()}) == 3
    assert [any("/dph/" in name for name in own) for own in measured.values()] == [False, False, True]
