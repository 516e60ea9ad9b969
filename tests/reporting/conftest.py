"""Run directories as training leaves them, in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignkit.run_dir import RunDir, rewrite_jsonl

Maker = Callable[..., Path]


def make_run(
    path: Path,
    *,
    config: Mapping[str, Any],
    results: Mapping[str, Any] | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    samples: Sequence[Mapping[str, Any]] = (),
    pairs: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """A run; without results one that has not ended."""
    run = RunDir.create(path)
    loss = {"monitor": "val/rewards/accuracies", **config.get("loss", {})}
    run.config.write_text(yaml.safe_dump({"run_dir": str(path), "steps": 40, **config, "loss": loss}), encoding="utf-8")
    for row in history:
        values = {name: value for name, value in row.items() if name not in ("step", "epoch")}
        run.append_metrics(values, step=row["step"], epoch=row.get("epoch", 0.0))
    if samples:
        run.samples.write_text("".join(json.dumps(row) + "\n" for row in samples), encoding="utf-8")
    if pairs:
        rewrite_jsonl(run.pairs, pairs)
    if results is not None:
        run.write_results({"steps": 40, **results})
    return path


@pytest.fixture(scope="session")
def run_maker() -> Maker:
    return make_run
