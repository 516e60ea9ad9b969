"""Run directories as alignkit writes them, through its own writers, with contents that tests choose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignkit.analysis.runs import Runs, load_runs
from alignkit.run_dir import RunDir

STEPS = (0, 10, 20)
WriteRun = Callable[..., RunDir]


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """`write_run("sweep/0", {"loss": {"name": "dpo"}}, rows=[{"step": 1, "val/loss": 0.5}], results={"val/loss": 0.5})`."""

    def write(
        place: str,
        config: Mapping[str, Any],
        *,
        rows: Sequence[Mapping[str, Any]] = (),
        results: Mapping[str, Any] | None = None,
    ) -> RunDir:
        run = RunDir.create(tmp_path / place)
        run.config.write_text(yaml.safe_dump({**config, "run_dir": str(run.path)}, sort_keys=False))
        for row in rows:
            values = {name: value for name, value in row.items() if name != "step"}
            run.append_metrics(values, step=row["step"], epoch=row["step"] / 10)
        if results is not None:
            run.write_results(results)
        return run

    return write


@pytest.fixture
def two_losses(write_run: WriteRun, tmp_path: Path) -> Runs:
    """DPO and cDPO at two seeds each, validated at `STEPS`: margins are step / 10 + seed, accuracies 0.5 + step / 100 for both."""
    for loss in ("dpo", "cdpo"):
        for seed in (0, 1):
            rows = [
                {
                    "step": step,
                    "val/rewards/margins": step / 10 + seed,
                    "val/rewards/accuracies": 0.5 + step / 100,
                    "val/logps/chosen": -30.0 - step / 10 - seed,
                    "val/logps/rejected": -40.0 - step / 5 - seed,
                }
                for step in STEPS
            ]
            write_run(f"{loss}-{seed}", {"loss": {"name": loss, "beta": 0.1}, "seed": seed}, rows=rows, results={"val/loss": 0.5})
    return load_runs(tmp_path)
