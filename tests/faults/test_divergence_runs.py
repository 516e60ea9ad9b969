"""Whole runs over data of which a row makes the loss go wrong: what stops, what is left out, what a killed run makes of it."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from alignkit.data.packing import Packing
from alignkit.data.steps import Steps
from alignkit.run_dir import RunDir

sys.path.append(str(Path(__file__).parents[1] / "end_to_end"))  # what tests share is a module of their folder

from equal_runs import check_equal, rows

HERE = str(Path(__file__).parent)
NAN, SPIKE = 77.0, 88.0
"""As in `faulty_losses/marked_pairs.py`, which only the runs import."""
SHORT = (
    *("loss=dpo", "loss.name=faulty_losses.marked_pairs", "allow_code=[faulty_losses]", "dataset=local", "dataset.validation_examples=2"),
    *(
        "steps=8",
        "validation.every=2",
        "validation.samples=1",
        "validation.sample_tokens=3",
        "batch.pairs=4",
        "batch.tokens=16",
        "logger=jsonl",
        "logger.every=1",
    ),
    *("schedule.warmup_steps=1", "callbacks.progress_bar=false", "hardware.threads=1"),
)
EXAMPLES = 48
ROW = "alignkit.run_dir:RunDir.append_metrics"
Commands = Callable[..., int]
Runner = Callable[..., tuple[int, str]]


def example_of(step: int, place: int = 1) -> int:
    """The row, from 0, of an example of a step's batch, from 1: the order is a function."""
    examples: Any = [None] * EXAMPLES
    return Steps(examples, pairs=4, steps=20, seed=0, packing=Packing(layout="packed", tokens=64)).global_batch(step - 1)[place]


def write_data(folder: Path, marks: dict[int, float]) -> list[str]:
    """A file to train on with marked rows and one to validate on; their settings."""
    for name, count, gaps in (("train", EXAMPLES, marks), ("held", 2, {})):
        pairs = [
            {"prompt": f"{name} [{k}]\x1b[2J:", "chosen": f" good {k % 7}.", "rejected": f" bad {k % 5}.", "margin": gaps.get(k, 1.0)}
            for k in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return [f"dataset.path={folder / 'train.jsonl'}", f"dataset.validation_path={folder / 'held.jsonl'}"]


@pytest.fixture
def started(commands: Commands, tmp_path: Path) -> Runner:
    """Runs a command that may use the faulty loss; its exit code and what it wrote."""

    def run(*argv: str, **order: Any) -> tuple[int, str]:
        log = tmp_path / "log.txt"
        log.unlink(missing_ok=True)
        code = commands(*argv, log=log, constants={"sys:path": [HERE, *sys.path]}, **order)
        return code, log.read_text()

    return run


def finite(run: RunDir) -> bool:
    """Whether model and checkpoint are."""
    state = torch.load(run.last_checkpoint, weights_only=True)["state_dict"]
    weights = [*load_file(run.model / "model.safetensors").values(), *state.values()]
    return all(bool(tensor.isfinite().all()) for tensor in weights)


def test_a_run_that_stops_names_the_row_and_the_audit_finds_the_example(started: Runner, tmp_path: Path) -> None:
    guilty, run = example_of(4), RunDir(tmp_path / "run")
    code, said = started(*SHORT, *write_data(tmp_path, {guilty: NAN}), f"run_dir={run.path}")
    assert code == 3, said
    assert f"(example {guilty}): dataset.path = {tmp_path / 'train.jsonl'}, line {guilty + 1}. The weights are those of step 3" in said
    assert finite(run)
    assert json.loads(run.results.read_text())["steps"] == 3
    (folder,) = run.failures.iterdir()
    code, page = started(f"failure={folder}", "allow_code=[faulty_losses]", command="alignkit.audit")
    assert code == 0, page
    assert "those before the step, of checkpoints/last.ckpt" in page
    lines = [line for line in page.splitlines() if f"train [{guilty}]" in line]
    assert len(lines) == 1
    assert lines[0].split()[0] == str(guilty)
    assert f"line {guilty + 1}" in lines[0]
    assert "the loss itself" in lines[0]
    assert "\x1b" not in page
    assert r"\x1b[2J" in page
    # Of the others the loss is finite, and what it was in the run.
    kept = json.loads((folder / "failure.json").read_text())["shares"][0]["losses"]
    told = [line.split() for line in page.splitlines() if line.endswith("all finite") or " all finite " in line]
    then_and_now = [(float(cells[2]), float(cells[3])) for cells in told[: len(kept) - 1]]
    assert [then for then, _ in then_and_now] == pytest.approx([float(loss) for loss in kept if loss != "nan"], rel=1e-5)
    assert all(then == pytest.approx(now, rel=1e-5) for then, now in then_and_now)
    # The user decides to do without the step.
    code, said = started(f"resume={run.path}", "divergence.action=skip", "allow_code=[faulty_losses]")
    assert code == 0, said
    assert [row["step"] for row in rows(run) if "train/learning_rate" in row] == list(range(1, 9))
    assert json.loads(run.results.read_text())["skipped_steps"] == 1


def test_the_audit_of_a_failure_says_what_is_wrong_with_what_was_typed(started: Runner, tmp_path: Path) -> None:
    (tmp_path / "run" / "failures" / "step-000001").mkdir(parents=True)
    for typed, said in {
        ("failure=nowhere",): "there is no such folder",
        (f"failure={tmp_path}",): "is no folder in a run's failures/",
        (f"failure={tmp_path / 'run' / 'failures' / 'step-000001'}",): "holds no run of its own",
        (f"failure={tmp_path}", "loss=dpo"): "so that loss=dpo has no place here",
    }.items():
        code, page = started(*typed, command="alignkit.audit")
        assert (code, "Traceback" in page) == (2, False), page
        assert said in page


def test_a_run_that_skips_and_is_killed_afterwards_goes_on_to_the_same_end(started: Runner, tmp_path: Path) -> None:
    # two in a row before the kill and the checkpoint of step 4, two after: a run that forgot the first two would not stop at any
    marks = {example_of(step): NAN for step in (3, 4, 6, 8)}
    data = write_data(tmp_path, marks)
    straight, killed = RunDir(tmp_path / "straight"), RunDir(tmp_path / "killed")
    argv = [*SHORT, *data, "divergence.action=skip"]
    code, said = started(*argv, f"run_dir={straight.path}")
    assert code == 0, said
    assert [row["train/divergence/skipped"] for row in rows(straight) if "train/learning_rate" in row] == [0, 0, 1, 2, 2, 3, 3, 4]
    assert json.loads(straight.results.read_text())["skipped_steps"] == 4
    assert sorted(folder.name for folder in straight.failures.iterdir()) == [f"step-00000{step}" for step in (3, 4, 6, 8)]
    # rows: 1 val@0, 2 @1, 3 @2, 4 val@2, 5 @3, 6 @4, 7 val@4, 8 @5
    code, said = started(*argv, f"run_dir={killed.path}", signal=signal.SIGKILL, at=ROW, call=8)
    assert code == -signal.SIGKILL, said
    code, said = started(f"resume={killed.path}", "allow_code=[faulty_losses]")
    assert code == 0, said
    check_equal(killed, straight)
    assert finite(killed)


def test_three_in_a_row_end_a_run_also_where_it_was_killed_between_them(started: Runner, tmp_path: Path) -> None:
    data = write_data(tmp_path, {example_of(step): NAN for step in (4, 5, 6)})
    run = RunDir(tmp_path / "run")
    argv = [*SHORT, *data, "divergence.action=skip", f"run_dir={run.path}"]
    code, said = started(*argv, signal=signal.SIGKILL, at=ROW, call=8)  # after the checkpoint of step 4
    assert code == -signal.SIGKILL, said
    code, said = started(f"resume={run.path}", "allow_code=[faulty_losses]")
    assert code == 3, said
    assert "step 6: the loss is nan, 3 times in a row (divergence.most_skips)" in said
    assert finite(run)


def test_a_spike_leads_back_to_the_checkpoint_and_past_its_batch_and_a_killed_run_does_the_same(started: Runner, tmp_path: Path) -> None:
    data = write_data(tmp_path, {example_of(8): SPIKE})
    guard = ["divergence.spike=50", "divergence.spike_window=8", "divergence.spike_action=rollback", "optimizer.lr=1e-6", "steps=10"]
    straight, killed = RunDir(tmp_path / "straight"), RunDir(tmp_path / "killed")
    argv = [*(line for line in SHORT if not line.startswith("steps=")), *data, *guard]
    code, said = started(*argv, f"run_dir={straight.path}")
    assert code == 0, said
    assert "step 8: the loss is" in said
    assert "rolled back" in said
    results = json.loads(straight.results.read_text())
    assert (results["steps"], results["rollbacks"], results["left_out_batches"]) == (10, 1, 2)
    steps = [row["step"] for row in rows(straight) if "train/loss" in row]
    assert steps == list(range(1, 11)), "no row twice"
    assert [row["step"] for row in rows(straight) if "val/loss" in row] == [0, 2, 4, 6, 8, 10]
    assert max(row["train/loss"] for row in rows(straight) if "train/loss" in row) < 1
    # step 7 of the run that went back read batch 9: its loss is that of a run whose seventh batch that is
    (folder,) = straight.failures.iterdir()
    assert json.loads((folder / "failure.json").read_text())["batch"] == 7
    # killed after it went back, before another checkpoint: 14 rows until then, of which steps 7 and 8 are written anew
    code, said = started(*argv, f"run_dir={killed.path}", signal=signal.SIGKILL, at=ROW, call=13)
    assert code == -signal.SIGKILL, said
    assert "rolled back" in said
    code, said = started(f"resume={killed.path}", "allow_code=[faulty_losses]")
    assert code == 0, said
    check_equal(killed, straight)


def test_two_ranks_decide_alike_about_a_loss_that_only_one_of_them_has(commands: Commands, tmp_path: Path) -> None:
    guilty, run = example_of(3), RunDir(tmp_path / "run")
    argv = [*SHORT, *write_data(tmp_path, {guilty: NAN}), "divergence.action=skip", "steps=4", "hardware=ddp", "hardware.devices=2"]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GROUP_RANK": "0"}
    orders = [
        commands.order(  # type: ignore[attr-defined]
            *(*argv, "hardware.accelerator=cpu", f"run_dir={run.path}"),
            log=tmp_path / f"rank{rank}.txt",
            constants={"sys:path": [HERE, *sys.path]},
            environment={**place, "RANK": str(rank), "LOCAL_RANK": str(rank), "TORCHELASTIC_RUN_ID": "tests"},
        )
        for rank in range(2)
    ]
    codes = commands.together(*orders)  # type: ignore[attr-defined]
    said = (tmp_path / "rank0.txt").read_text()
    assert codes == [0, 0], said
    assert "of rank " in said
    assert ": skipped. The batch is kept" in said
    failure = json.loads((run.failures / "step-000003" / "failure.json").read_text())
    assert guilty in failure["keys"]
    assert len(failure["keys"]) <= 2, "the share of one rank"
    shares = failure["shares"]
    assert sum("nan" in share["losses"] for share in shares) == 1
    assert sorted(key for share in shares for batch in share["batches"] for key in batch["example_keys"]) == sorted(
        example_of(3, place) for place in range(4)
    )
    assert [row["train/divergence/skipped"] for row in rows(run) if "train/learning_rate" in row] == [0, 0, 1, 1]
    assert finite(run)
