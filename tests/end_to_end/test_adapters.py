"""Low-rank adapters and moving references through the whole command: the right reference, whatever the policy is made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignkit.models.export import load_aligned
from alignkit.models.reference import fingerprint

SHORT = [
    "steps=3",
    "schedule.warmup_steps=1",
    "validation.every=3",
    "validation.samples=0",
    "logger=jsonl",
    "dataset.pairs=40",
    "dataset.validation_examples=12",
    "batch.pairs=8",
    "callbacks.progress_bar=false",
    "callbacks.checkpoints=false",
    "hardware.threads=1",
    "optimizer.lr=0.01",
]
LORA = ("model.adapter=lora", "model.lora.rank=4")
Train = Callable[..., dict[str, object]]


@pytest.fixture
def train(commands: Callable[..., int], tmp_path: Path) -> Train:
    """Runs the command in `tmp_path/name` and reads its `results.json`; caches are shared by the runs of a test."""

    def run(name: str, *overrides: str) -> dict[str, object]:
        log = tmp_path / f"{name}.txt"
        environment = {"ALIGNKIT_CACHE": str(tmp_path / "cache")}
        code = commands(*SHORT, f"run_dir={name}", *overrides, log=log, folder=tmp_path, environment=environment)
        assert code == 0, log.read_text()
        read: dict[str, object] = json.loads((tmp_path / name / "results.json").read_text())
        return read

    return run


def test_adapters_share_the_reference_of_the_whole_model_cached_or_switched_off(train: Train, tmp_path: Path) -> None:
    whole = train("whole", "loss=dpo")
    cached = train("cached", "loss=dpo", *LORA)
    live = train("live", "loss=dpo", "reference=memory", *LORA)
    assert cached["reference/computed"] == 0
    assert len({run["reference_fingerprint"] for run in (whole, cached, live)}) == 1
    for run in (cached, live):
        assert run["start/val/loss"] == pytest.approx(0.6931472, abs=1e-5)
        assert run["val/loss"] < 0.69
    assert cached["val/loss"] == pytest.approx(live["val/loss"], abs=1e-4)


def test_an_adapter_on_an_adapter_has_the_first_one_in_its_reference(train: Train, tmp_path: Path) -> None:
    train("sft", "loss=sft", "model.lora.export=adapter", *LORA)
    assert (tmp_path / "sft" / "model" / "adapter_config.json").is_file()
    merged = load_aligned(tmp_path / "sft").backbone
    second = train("dpo", "loss=dpo", "model=hf", "model.path=sft/model", *LORA)
    assert second["reference_fingerprint"] == fingerprint(merged)
    assert second["reference/computed"] == 36  # not those of the model under the first adapter, had it been asked
    assert second["start/val/loss"] == pytest.approx(0.6931472, abs=1e-5)
    ids = torch.arange(5, 40)[None]
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "dpo" / "model")
    assert (exported(ids).logits - merged.lm(ids).logits).abs().max() > 1e-3
    assert not any("lora" in name for name in exported.state_dict())


def test_a_moved_policy_is_measured_against_the_model_that_it_is_told(train: Train, tmp_path: Path) -> None:
    first = train("first", "loss=dpo")
    again = train("again", "loss=dpo", "model=hf", "model.path=first/model", "reference.path=builtin:tiny")
    assert again["reference_fingerprint"] == first["reference_fingerprint"] != again["policy_fingerprint"]
    assert again["start/val/loss"] == pytest.approx(first["val/loss"], abs=1e-4)


def test_a_moving_reference_caches_nothing_and_ends_nearer_to_the_policy(train: Train, tmp_path: Path) -> None:
    still = train("still", "loss=dpo", "reference=memory")
    moving = train("moving", "loss=dpo", "reference=moving", "reference.every=1", "reference.mix=1")
    assert "reference/computed" not in moving
    # after the last update the reference is the policy
    assert moving["val/rewards/margins"] == pytest.approx(0.0, abs=1e-6)
    assert abs(still["val/rewards/margins"]) > 1e-3
