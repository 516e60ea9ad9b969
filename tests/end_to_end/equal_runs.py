"""Whether a run that was stopped and went on has left what one leaves that was not, to the bit."""

from __future__ import annotations

import json
from typing import Any

import torch

from alignkit.run_dir import RunDir, read_jsonl


def rows(run: RunDir) -> list[dict[str, Any]]:
    """What was logged, without times."""
    return [{name: value for name, value in row.items() if not timed(name)} for row in read_jsonl(run.metrics)]


def timed(name: str) -> bool:
    return name == "time" or "seconds" in name or "throughput" in name or name in ("tokens_per_second", "peak_memory_bytes")


def same(left: Any, right: Any) -> bool:
    """Equal to the bit."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def check_equal(run: RunDir, other: RunDir) -> None:
    """Metrics, samples, pairs, weights, heads, optimiser, random states, and whatever else a checkpoint holds but paths and times."""
    assert rows(run) == rows(other)
    assert list(read_jsonl(run.samples)) == list(read_jsonl(other.samples))
    assert run.pairs.exists() == other.pairs.exists()
    assert not run.pairs.exists() or run.pairs.read_text() == other.pairs.read_text()
    assert (run.model / "model.safetensors").read_bytes() == (other.model / "model.safetensors").read_bytes()
    assert run.heads.exists() == other.heads.exists()
    if run.heads.exists():
        assert run.heads.read_bytes() == other.heads.read_bytes()
    ours, theirs = (torch.load(of.last_checkpoint, weights_only=True) for of in (run, other))
    for checkpoint in (ours, theirs):
        checkpoint["alignkit/progress"].pop("training_seconds")
        checkpoint["callbacks"] = {name: state for name, state in checkpoint["callbacks"].items() if "ModelCheckpoint" not in name}
        checkpoint.pop("loops")
    assert {key for key in ours if not same(ours[key], theirs.get(key))} == set()
    results = [json.loads(of.results.read_text()) for of in (run, other)]
    computed = [{name: value for name, value in of.items() if not timed(name) and not name.startswith("reference/")} for of in results]
    assert computed[0] == computed[1]
