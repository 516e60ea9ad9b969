"""What methods cost: all stages of a job together, shared ones too, and samples up to the first validation that shows the target."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from alignkit.analysis.answers.cost_of_alignment import answer, samples_to_target
from alignkit.analysis.runs import Runs

GOLD = "val/objective/gold"
SFT = {"config": {"seed": 0}, "results": {"seconds": 10.0, "peak_memory_bytes": 5 * 2**30, "models_held": 1}}


def last(seed: int, gold: list[tuple[int, float]], **results: Any) -> dict[str, Any]:
    """A stage that trained on 1,280 completions in 40 steps."""
    told = {"seconds": 20.0, "peak_memory_bytes": 3 * 2**30, "models_held": 2, "steps": 40, "completions": 1280}
    told |= {f"start/{GOLD}": gold[0][1], GOLD: gold[-1][1], **results}
    rows = [{"step": step, GOLD: value} for step, value in gold]
    return {"config": {"seed": seed, "optimizer": {"lr": 1e-3}}, "results": told, "rows": rows}


@pytest.fixture
def runs(write_experiment: Callable[..., Runs]) -> Runs:
    best = {"config": {"seed": 0}, "results": {"seconds": 5.0, "peak_memory_bytes": 1, "best_of_1/gold": 0.7, "best_of_4/gold": 0.8}}
    jobs = [
        {"arm": "dph", "stages": {"sft": SFT, "dph": last(0, [(0, 0.1), (10, 0.4), (20, 0.65), (40, 0.7)]), "best": best}},
        {"arm": "dpo", "stages": {"sft": "0/sft", "dpo": last(0, [(0, 0.1), (40, 0.5)])}},
        {"arm": "dpo", "stages": {"sft": "0/sft", "dpo": last(1, [(0, 0.1), (40, 0.7)])}},
        {"arm": "rlhf", "stages": {"sft": "0/sft", "ppo": None}},
    ]
    return write_experiment(jobs)


def test_a_row_has_all_stages_of_its_jobs(runs: Runs) -> None:
    table = answer(runs).table.set_index("method")
    assert set(table.index) == {"dph", "dpo"}  # the job of rlhf is not finished
    dph, dpo = table.loc["dph"], table.loc["dpo"]
    assert (dph["stages"], dph["seconds"], dph["models held"], dph["peak memory (GiB)"]) == (3, 35.0, 2, 5.0)
    assert (dph["gold, start"], dph["gold"], dph["best of 4"], dph["samples to 0.6"]) == (0.1, 0.7, 0.8, "640")
    assert (dpo["seeds"], dpo["seconds"], dpo["gold"]) == (2, 30.0, pytest.approx(0.6))
    assert dpo["samples to 0.6"] == "never, 1280"
    assert math.isnan(dpo["best of 4"])


def test_samples_are_counted_up_to_the_first_validation_that_shows_the_target(runs: Runs) -> None:
    assert samples_to_target(runs, "0/dph") == 640  # 1,280 completions, half of the steps
    assert math.isnan(samples_to_target(runs, "1/dpo"))


def test_findings_say_what_was_reached(runs: Runs) -> None:
    findings = answer(runs).findings
    assert findings[0].startswith(
        "dph reached a gold reward of 0.70 at its best learning rate of those tried, 0.001, in 35 s with 2 models"
    )
    assert findings[0].endswith("1 of 1 seeds reached 0.6, after 640 samples on average.")
    assert "1 of 2 seeds reached 0.6, after 1280 samples" in findings[1]
