"""Experiments as the command leaves them: `sweep.json`, `pipeline.json` of each job, and the run directories of stages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from alignkit.analysis.runs import Runs, load_runs

WriteExperiment = Callable[..., Runs]


@pytest.fixture
def write_experiment(write_run: Callable[..., Any], tmp_path: Path) -> WriteExperiment:
    """`write_experiment([{"arm": "dpo", "stages": {"sft": {"config": ..., "results": ..., "rows": ...}, "policy": "0/sft"}}])`.

    A stage is the config, results and rows of its run, or the place `JOB/STAGE` of one that an earlier job has run; None is one that is not
    finished.
    """

    def write(jobs: Sequence[Mapping[str, Any]]) -> Runs:
        records = []
        for number, job in enumerate(jobs):
            stages = []
            for name, stage in job["stages"].items():
                directory, status = name, "done"
                if isinstance(stage, str):
                    directory = f"../{stage}"
                elif stage is None:
                    status = "failed"
                else:
                    results = {"seconds": 1.0, **stage.get("results", {})}
                    write_run(f"{number}/{name}", stage.get("config", {}), rows=stage.get("rows", ()), results=results)
                stages.append({"stage": name, "directory": directory, "status": status})
            (tmp_path / str(number)).mkdir(exist_ok=True)
            told = {"pipeline": job.get("pipeline", "p"), "arm": job["arm"], "overrides": [], "stages": stages}
            (tmp_path / str(number) / "pipeline.json").write_text(json.dumps(told))
            records.append({"job": number, "overrides": [], "run": str(number), "arm": job["arm"]})
        (tmp_path / "sweep.json").write_text(json.dumps(records))
        return load_runs(tmp_path)

    return write
