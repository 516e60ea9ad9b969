"""The ledger of training pairs: what it holds, that it changes nothing, and that a run that is killed and goes on loses none of it."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from alignkit.command_line import precheck
from alignkit.errors import UserError
from alignkit.job import carry_out
from alignkit.ledger_file import LedgerFile
from alignkit.resuming.going_back import forget_visits
from alignkit.run_dir import RunDir, read_jsonl

sys.path.append(str(Path(__file__).parents[1] / "end_to_end"))  # where what tests of resuming share is

from equal_runs import check_equal

SHORT = [
    "steps=6",
    "validation.every=2",
    "validation.samples=1",
    "validation.sample_tokens=3",
    "logger=jsonl",
    "logger.every=1",
    "hardware.threads=1",
    "batch.pairs=5",
    "batch.tokens=192",  # several micro-batches a step
    "dataset.pairs=12",
    "dataset.validation_examples=2",
    "schedule.warmup_steps=1",
    "callbacks.progress_bar=false",
    "callbacks.ledger=true",
]


def ledger_of(run: RunDir) -> LedgerFile:
    return LedgerFile(folder=run.ledger)


@pytest.fixture(scope="module")
def straight(commands, tmp_path_factory) -> RunDir:
    """A run on a head and the policy that nobody stops."""
    folder = tmp_path_factory.mktemp("straight")
    assert commands(*SHORT, f"run_dir={folder / 'run'}", log=folder / "log.txt") == 0, (folder / "log.txt").read_text()
    return RunDir(folder / "run")


def test_every_pair_is_there_once_an_epoch_with_what_was_logged(straight):
    visits = ledger_of(straight).read()
    assert [int((visits["step"] == step).sum()) for step in range(1, 7)] == [5, 5, 2, 5, 5, 2]  # 12 pairs in batches of 5
    for epoch in (0, 1):
        assert sorted(visits["key"][visits["epoch"] == epoch]) == list(range(12))
    assert set(visits["source"]) == {0}
    rows = {row["step"]: row for row in read_jsonl(straight.metrics) if "train/loss" in row}
    for step, row in rows.items():  # every step logs the means over its own pairs
        mine = visits[visits["step"] == step]
        assert mine["margin"].mean() == pytest.approx(row["train/rewards/margins"], abs=1e-5)
        assert mine["implicit"].mean() == pytest.approx(row["train/implicit_rewards/margins"], abs=1e-5)
        assert mine["loss"].mean() == pytest.approx(row["train/loss"], abs=1e-5)
    assert (visits["implicit"][visits["step"] == 1] == 0).all()  # before the first update policy and reference are one


def test_records_lie_in_order_of_step_and_key(straight):
    visits = ledger_of(straight).read()
    assert np.lexsort((visits["key"], visits["step"])).tolist() == list(range(len(visits)))


def test_suspects_are_named_with_texts_and_numbers(straight):
    rows = list(read_jsonl(ledger_of(straight).suspects))
    assert [row["rank"] for row in rows] == list(range(1, 13))
    assert [row["area_scaled"] for row in rows] == sorted(row["area_scaled"] for row in rows)
    visits = ledger_of(straight).read()
    for row in rows:
        assert row["visits"] == 2
        assert row["area"] == pytest.approx(visits["margin"][visits["key"] == row["key"]].mean(), abs=1e-6)
        assert row["row"] is None  # data that are made have no rows
        assert len({row["prompt"], row["chosen"], row["rejected"]}) == 3


def test_a_ledger_changes_no_bit_of_training(straight, commands, tmp_path):
    run = RunDir(tmp_path / "run")
    assert commands(*SHORT[:-1], f"run_dir={run.path}", log=tmp_path / "log.txt") == 0
    assert not run.ledger.exists()
    check_equal(run, straight)


ROW = "alignkit.run_dir:RunDir.append_metrics"
KILLS = [
    pytest.param(ROW, 6, id="after a step past a checkpoint"),
    pytest.param("alignkit.manifests:Manifest.write", 3, id="before the checkpoint of what is in the ledger was whole"),
]


@pytest.mark.parametrize(("at", "call"), KILLS)
def test_no_visit_is_lost_or_there_twice_after_a_kill(at, call, straight, commands, tmp_path):
    log, run = tmp_path / "log.txt", RunDir(tmp_path / "run")
    assert commands(*SHORT, f"run_dir={run.path}", log=log, signal=signal.SIGKILL, at=at, call=call) == -signal.SIGKILL, log.read_text()
    with ledger_of(run).visits.open("ab") as content:
        content.write(b"\x07" * 11)  # half a record
    assert commands(f"resume={run.path}", log=log) == 0, log.read_text()
    assert ledger_of(run).visits.read_bytes() == ledger_of(straight).visits.read_bytes()
    assert ledger_of(run).suspects.read_bytes() == ledger_of(straight).suspects.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_may_be_stopped_anywhere(number, straight, commands, tmp_path):
    for call in range(2, 11):
        log, run = tmp_path / f"{call}.txt", RunDir(tmp_path / str(call))
        code = commands(*SHORT, f"run_dir={run.path}", log=log, signal=number, at=ROW, call=call)
        assert code in (0, -number, 128 + number), log.read_text()
        if code != 0:
            assert commands(f"resume={run.path}", log=log) in (0, 2), log.read_text()
        assert ledger_of(run).visits.read_bytes() == ledger_of(straight).visits.read_bytes(), call


@pytest.mark.slow
def test_two_ranks_write_what_one_process_writes(straight, commands, tmp_path):
    log, run = tmp_path / "log.txt", RunDir(tmp_path / "run")
    ranks = ["hardware=ddp", "hardware.accelerator=cpu", "hardware.devices=2"]
    assert commands(*SHORT, *ranks, f"run_dir={run.path}", log=log) == 0, log.read_text()
    both = [ledger_of(of).read() for of in (run, straight)]
    for name in ("key", "step", "epoch", "source"):
        assert both[0][name].tolist() == both[1][name].tolist()
    assert both[0]["margin"] == pytest.approx(both[1]["margin"], abs=1e-3)


def run_here(folder: Path, *overrides: str, size: str = "dataset.pairs=12") -> RunDir:
    short = [line for line in SHORT if not line.startswith("dataset.pairs")]
    (settings,) = precheck([*short, size, "steps=1", "schedule.warmup_steps=0", "callbacks.checkpoints=false", *overrides])
    run = RunDir.create(folder)
    carry_out(settings, run)
    return run


def test_parts_of_a_mixture_are_told_apart_and_their_rows_found(tmp_path):
    rows = [{"prompt": f"Film {n}:", "chosen": " It is good.", "rejected": " It is bad."} for n in range(6)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = f"{{made: {{source: reviews, pairs: 4}}, own: {{source: local, path: {tmp_path / 'own.jsonl'}, validation_examples: 1}}}}"
    terms = "{prefer: {loss: dpo, beta: 0.1}, rank: {loss: ipo, beta: 0.1, weight: 2.0, source: own}}"
    mixture = ["loss=composite", f"loss.parts={terms}", "dataset=mixture", "batch.pairs=9"]
    run = run_here(tmp_path / "run", *mixture, size=f"dataset.parts={parts}")
    file = ledger_of(run)
    visits = file.read()
    assert file.sources() == ["made", "own"]
    assert sorted(visits["source"]) == [0] * 4 + [1] * 5
    # At the reference dpo's loss is ln 2 and ipo's 1 / (4 * 0.1^2), of one part.
    assert visits["loss"][visits["source"] == 0] == pytest.approx(np.log(2), abs=1e-5)
    assert visits["loss"][visits["source"] == 1] == pytest.approx(np.log(2) + 2 * 25, abs=1e-3)
    named = {row["source"]: row for row in read_jsonl(file.suspects)}
    assert named["made"]["row"] is None
    line = int(named["own"]["row"].rpartition("line ")[2])
    assert named["own"]["prompt"] == rows[line - 1]["prompt"]


def test_the_pair_of_a_ranking_is_its_best_and_its_worst(tmp_path):
    run = run_here(tmp_path / "run", "loss=plackett_luce", "dataset.answers=4")
    visits = ledger_of(run).read()
    assert np.isfinite(visits["margin"]).all()
    assert "implicit" not in visits.dtype.names


def test_labels_of_single_completions_have_a_margin_where_they_come_in_pairs(tmp_path):
    visits = ledger_of(run_here(tmp_path / "run", "loss=kto")).read()
    assert visits["margin"].tolist() == [0.0] * 5
    assert visits["loss"] == pytest.approx(0.5, abs=1e-6)  # 1 - sigmoid(0) on either side


@pytest.mark.parametrize("loss", [["loss=sft"], ["loss=ppo", "scorer=vader"]])
def test_a_loss_without_pairs_is_refused_before_weights_are_loaded(loss, tmp_path):
    with pytest.raises(UserError, match=r"callbacks.ledger = true with loss=(sft|ppo): (it has no margins|there are no pairs)"):
        run_here(tmp_path / "run", *loss)


def test_a_full_disk_ends_no_training(tmp_path, monkeypatch, capsys):
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LedgerFile, "append", refuse)
    run = run_here(tmp_path / "run", "loss=dpo")
    assert run.results.exists()
    assert "cannot be written (No space left on device). Training goes on" in capsys.readouterr().out


def test_a_damaged_ledger_stops_no_resumed_run(tmp_path, capsys):
    file = LedgerFile(folder=tmp_path)
    file.begin(implicit=False, sources=[""])
    file.append(np.zeros(3, file.kind()))
    file.about.write_text("{")
    forget_visits(file, 1)
    assert "ledger.json: is not JSON" in capsys.readouterr().out
    assert not file.visits.exists()
