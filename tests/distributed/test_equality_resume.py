"""A run that a signal to one of its two ranks has stopped goes on as if it had not been, on two ranks or on one."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from alignkit.export import export
from alignkit.run_dir import RunDir

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder
from equality import COMMON, MANY, SAMPLED, check_equal, rows, save_small_model

STOP = 6
"""Optimiser steps before the signal; the validation after step 5 is done, that after step 10 is not."""
RUNS = {
    "fsdp, heads": ["hardware=fsdp", "loss=con_dph"],
    "fsdp, adapters": ["hardware=fsdp", "loss=dpo", "model.adapter=lora", "reference=memory"],
    "fsdp, samples": ["hardware=fsdp", "loss=ppo", *SAMPLED[:3], "loss.epochs=1"],
    "ddp, running level": ["hardware=ddp", "loss=bco", "logger.every=4"],
}
Runs = Mapping[tuple[str, str], RunDir]


def planned(folder: Path, *alone: str, **how: Any) -> list[dict[str, Any]]:
    """Runs of all kinds, each in a folder of its own."""
    return [
        {"folder": str(folder / str(number)), "overrides": [*options, *COMMON, f"model.path={folder.parent / 'small'}", *alone], **how}
        for number, options in enumerate(RUNS.values())
    ]


@pytest.fixture(scope="module")
def runs(run_ranks: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Each run straight through, and stopped and resumed."""
    folder = tmp_path_factory.mktemp("resume")
    save_small_model(folder / "small")

    def start(processes: int, runs: list[dict[str, Any]]) -> None:
        file = folder / "runs.json"
        file.write_text(json.dumps(runs))
        run_ranks(MANY, file, processes=processes, timeout=600, environment={"TORCH_CPP_LOG_LEVEL": "ERROR"})

    going = folder / "going"  # a run goes on where it was
    start(2, [*planned(folder / "straight"), *planned(going, stop_at=STOP)])
    shutil.copytree(going, folder / "stopped", symlinks=True)
    start(2, planned(going, resume=True))
    going.rename(folder / "two")
    shutil.copytree(folder / "stopped", going, symlinks=True)
    start(1, planned(going, "hardware=cpu", resume=True))
    going.rename(folder / "one")
    hows = ("straight", "stopped", "two", "one")
    return {(how, name): RunDir(folder / how / str(number)) for how in hows for number, name in enumerate(RUNS)}


@pytest.mark.parametrize("name", RUNS)
def test_a_signal_to_one_rank_stops_both_after_the_same_step(name: str, runs: Runs) -> None:
    results = json.loads(runs["stopped", name].results.read_text())
    assert results["steps"] == STOP
    assert max(int(row["step"] or 0) for row in rows(runs["stopped", name])) <= STOP
    assert runs["stopped", name].last_checkpoint.exists()


@pytest.mark.parametrize("ranks", ["two", "one"])
@pytest.mark.parametrize("name", RUNS)
def test_the_rest_of_a_run_is_the_same_on_as_many_ranks_and_on_one(name: str, ranks: str, runs: Runs) -> None:
    check_equal(runs[ranks, name], runs["straight", name])


@pytest.mark.parametrize("name", [name for name in RUNS if name.startswith("fsdp")])
def test_one_process_makes_the_same_model_of_what_two_have_cut_and_saved(name: str, runs: Runs, tmp_path: Path) -> None:
    run, out = runs["stopped", name], tmp_path / "out"
    assert (run.last_checkpoint / ".metadata").is_file()
    assert export([str(run.path), f"out={out}"]) == 0
    files = [file for file in ("texts.json", "heads.json", "heads.safetensors") if (run.path / file).is_file()]
    for file in ("model/model.safetensors", "model/config.json", *files):
        assert (out / file).read_bytes() == (run.path / file).read_bytes(), file
