"""What the tests of equality run, and when two runs are the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from alignkit.run_dir import RunDir, Scalar, read_jsonl

TINY = Path(__file__).parents[2] / "alignkit/lab/pretrained/tiny"
MANY = Path(__file__).with_name("many_runs.py")
COMMON = [
    "steps=10",
    "validation.every=5",
    "validation.samples=1",
    "validation.sample_tokens=2",
    "logger=jsonl",
    "logger.every=1",
    "hardware.accelerator=cpu",
    "hardware.threads=1",
    "batch.pairs=5",
    "batch.tokens=256",
    "dataset.pairs=24",
    "dataset.validation_examples=7",
    "schedule.warmup_steps=1",
    "callbacks.progress_bar=false",
]
"""24 examples in batches of 5: the last batch of an epoch is shorter, and two ranks never have equally many."""
SAMPLED = ["scorer=vader", "rollout.samples=2", "rollout.max_tokens=6", "loss.epochs=2", "loss.minibatches=2"]
LOSSES = {
    "sft": ["loss=sft"],
    "reward": ["loss=bradley_terry"],
    "dpo": ["loss=dpo"],
    "dph": ["loss=con_dph"],
    "kto": ["loss=kto"],
    "ppo": ["loss=ppo", *SAMPLED],
}
WAYS = {
    "accumulation": ["hardware=cpu", "batch.tokens=64"],
    "ddp": ["hardware=ddp"],
    "fsdp": ["hardware=fsdp"],
    "tensor_parallel": ["hardware=tensor_parallel"],
}
NOISY = ("seconds", "throughput", "clip_fraction", "sampler_error", "time")
"""What depends on the machine, or counts how many numbers are beyond a threshold."""
SIGNS = ("accuracies", "calibration_error", "length_correlation")
"""What is made of the signs of margins, or of their order."""


def save_small_model(folder: Path) -> None:
    """Two layers with four heads, which two processes can share; the shipped model has five."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.15,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def rows(run: RunDir) -> list[dict[str, Scalar]]:
    """All training rows and validations."""
    return list(read_jsonl(run.metrics))


def check_equal(run: RunDir, other: RunDir) -> None:
    """Losses within 1e-5, all other numbers within rounding of ten steps."""
    ours, theirs = rows(run), rows(other)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for own, wanted in zip(ours, theirs, strict=True):
        # While policy and reference are equal, the sign of a margin is that of its rounding.
        signs = SIGNS if any(abs(float(wanted.get(name) or 0)) < 1e-5 for name in wanted if name.endswith("margins")) else ()
        counted = {name for name in own.keys() | wanted.keys() if not any(part in name for part in (*NOISY, *signs))}
        assert counted & own.keys() == counted & wanted.keys()
        for name in sorted(counted):
            value = wanted[name]
            if name.endswith("/loss") or "loss/" in name:
                assert own[name] == pytest.approx(value, rel=1e-5, abs=1e-5), (name, own["step"])
            else:
                assert own[name] == pytest.approx(value, rel=2e-3, abs=5e-4), (name, own["step"])
