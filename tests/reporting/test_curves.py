from __future__ import annotations

import base64
import math
from pathlib import Path

import numpy as np

from alignkit.analysis.runs import load_runs
from alignkit.reporting.curves import MOST_POINTS, curves_of, extremes


def unpacked(text: str, kind: str) -> list[float]:
    return np.frombuffer(base64.b64decode(text), dtype=kind).tolist()


def test_values_come_back_at_their_own_steps(tmp_path: Path, run_maker) -> None:
    first = [
        {"step": 0, "val/rewards/accuracies": 0.5},
        {"step": 1, "train/loss": 0.75},
        {"step": 2, "train/loss": math.nan, "val/rewards/accuracies": 0.625},
    ]
    run_maker(tmp_path / "a", config={"loss": {"name": "dpo"}}, history=first)
    run_maker(tmp_path / "b", config={"loss": {"name": "dpo"}, "seed": 1}, history=[{"step": 1, "train/loss": -0.25}])
    curves = curves_of(load_runs(tmp_path))
    names = [metric["name"] for metric in curves.metrics]
    assert names == ["val/rewards/accuracies", "train/loss"]  # held-out metrics before those of training
    found = {
        name: {run: (unpacked(curves.steps[at], "<i4"), unpacked(values, "<f4")) for run, at, values in block}
        for name, block in zip(names, curves.blocks, strict=True)
    }
    assert found == {"val/rewards/accuracies": {0: ([0, 2], [0.5, 0.625])}, "train/loss": {0: ([1], [0.75]), 1: ([1], [-0.25])}}
    assert len(curves.steps) == 2  # equal steps are kept once
    assert curves.thinned == 0
    assert curves.metrics[1]["better"] == "lower"


def test_no_spike_is_lost_by_thinning() -> None:
    values = np.sin(np.arange(50_000) / 5000)
    values[[12_345, 40_001]] = [9.0, -9.0]
    kept = extremes(values, 1000)
    assert len(kept) <= 2002
    assert {0, 12_345, 40_001, 49_999} <= set(kept.tolist())
    assert (np.diff(kept) > 0).all()
    assert np.abs(np.interp(np.arange(50_000), kept, values[kept])[41_000:] - values[41_000:]).max() < 0.02


def test_only_long_curves_are_thinned_and_it_is_said(tmp_path: Path, run_maker) -> None:
    for name, rows in (("short", MOST_POINTS), ("long", MOST_POINTS + 1)):
        run_maker(
            tmp_path / name, config={"loss": {"name": "dpo"}}, history=[{"step": step, "train/loss": step % 7} for step in range(rows)]
        )
    curves = curves_of(load_runs(tmp_path))
    assert curves.thinned == 1
    counts = sorted(len(unpacked(values, "<f4")) for _, _, values in curves.blocks[0])
    assert counts[1] == MOST_POINTS or counts[0] == MOST_POINTS
