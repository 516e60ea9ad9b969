"""A run on samples is put together without work that is done twice."""

from __future__ import annotations

from pathlib import Path

from alignkit.command_line import precheck
from alignkit.job import carry_out
from alignkit.leaving import models_held
from alignkit.models.reference import LiveReference
from alignkit.run_dir import RunDir

SHORT = [
    *("hardware.threads=1", "steps=1", "schedule.warmup_steps=0", "validation.every=1", "validation.samples=0"),
    *("dataset.pairs=16", "dataset.validation_examples=6", "batch.pairs=4", "logger=jsonl"),
    *("callbacks.checkpoints=false", "callbacks.progress_bar=false"),
]


def train(folder: Path, *overrides: str) -> tuple[RunDir, dict[str, object]]:
    (settings,) = precheck([*SHORT, *overrides])
    run = RunDir.create(folder)
    return run, carry_out(settings, run)


def test_a_head_on_the_references_weights_takes_neither_a_second_model_nor_a_second_pass(tmp_path, monkeypatch):
    heads, _ = train(tmp_path / "heads", "loss=reward", "model.train=heads")
    of_other_tests = models_held()

    def again(*args: object) -> None:
        raise AssertionError("the reference ran for what the head had read")

    ppo = ["loss=ppo", "rollout.max_tokens=8", "rollout.samples=2", "scorer=head", f"scorer.path={heads.path}"]
    monkeypatch.setattr(LiveReference, "hidden_states", again)
    _, results = train(tmp_path / "ppo", *ppo)
    assert results["models_held"] == of_other_tests + 2
    assert results["certificate/first_kl_error"] < 1e-4
