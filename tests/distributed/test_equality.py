"""The same run on one process and on two, whatever they share: the same numbers, step by step, and the same model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from alignkit.run_dir import RunDir, read_jsonl

sys.path.append(str(Path(__file__).parent))  # tests are imported by their paths; what some of them share is a module of their folder
from equality import COMMON, LOSSES, MANY, WAYS, check_equal, rows, save_small_model

Runs = Mapping[tuple[str, str], RunDir]
CUT = ("fsdp", "tensor_parallel")
"""Ways that cut weights: dear."""
CASES = [
    pytest.param(way, loss, marks=[pytest.mark.slow] if way in CUT and loss not in ("dph", "ppo") else [])
    for way in WAYS
    for loss in LOSSES
]
"""Every loss in every way; where weights are cut, all but those that read most of the model are marked slow."""


def list_of(folder: Path, cases: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    return [
        {
            "folder": str(folder / way / loss),
            "overrides": [*LOSSES[loss], *COMMON, f"model.path={folder / 'small'}", *({"one": ["hardware=cpu"], **WAYS}[way])],
        }
        for way, loss in cases
    ]


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, run_ranks: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Every case that a test was chosen for, and every loss on one process."""
    folder = tmp_path_factory.mktemp("equality")
    save_small_model(folder / "small")
    asked = [getattr(item, "callspec", None) for item in request.session.items if getattr(item, "module", None) is request.module]
    named = {(way, call.params.get("loss", "dph")) for call in asked if call is not None and (way := call.params.get("way"))} | {
        ("ddp", "dpo")
    }
    cases = [("one", loss) for loss in LOSSES] + [(way, loss) for way in WAYS for loss in LOSSES if (way, loss) in named]
    for processes, ways in ((1, ("one", "accumulation")), (2, ("ddp", *CUT))):
        file = folder / f"{processes}.json"
        file.write_text(json.dumps(list_of(folder, [case for case in cases if case[0] in ways])))
        run_ranks(MANY, file, processes=processes, timeout=600, environment={"TORCH_CPP_LOG_LEVEL": "ERROR"})
    return {(way, loss): RunDir(folder / way / loss) for way, loss in cases}


@pytest.mark.parametrize(("way", "loss"), CASES)
def test_every_number_of_every_step_is_that_of_one_process(way: str, loss: str, runs: Runs) -> None:
    check_equal(runs[way, loss], runs["one", loss])


@pytest.mark.parametrize(("way", "loss"), CASES)
def test_the_exported_model_is_that_of_one_process(way: str, loss: str, runs: Runs) -> None:
    ours, theirs = (load_file(run.model / "model.safetensors") for run in (runs[way, loss], runs["one", loss]))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.allclose(ours[name], tensor, atol=2e-4), name
    heads = [run.heads.is_file() for run in (runs[way, loss], runs["one", loss])]
    assert heads[0] == heads[1]


@pytest.mark.parametrize("way", WAYS)
def test_the_results_count_what_all_ranks_have_done(way: str, runs: Runs) -> None:
    ours, theirs = (json.loads(runs[one, "dph"].results.read_text()) for one in (way, "one"))
    assert {name: ours[name] for name in ("steps", "completions", "parameters")} == {
        name: theirs[name] for name in ("steps", "completions", "parameters")
    }


def test_one_rank_writes_the_files(runs: Runs) -> None:
    steps = [(row["step"], "val/loss" in row) for row in rows(runs["ddp", "dpo"])]
    assert len(steps) == len(set(steps)), "a row was written twice"
    assert len(list(read_jsonl(runs["ddp", "dpo"].samples))) == 3, "one prompt at each of three validations"


@pytest.mark.parametrize(("way", "loss"), [case for case in CASES if case.values[1] in ("dpo", "dph", "reward")])
def test_single_pairs_of_all_ranks_are_those_of_one_process(way: str, loss: str, runs: Runs) -> None:
    ours, theirs = (list(read_jsonl(runs[one, loss].pairs)) for one in (way, "one"))
    assert len(theirs) == 7
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, abs=1e-3)
