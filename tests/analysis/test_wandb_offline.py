"""W&B's own files read back as what the run wrote beside them."""

from __future__ import annotations

import dataclasses
import math
import time
import zlib
from pathlib import Path

import pandas as pd
import pytest

from alignkit.analysis.runs import RUN, Runs, load_runs
from alignkit.analysis.wandb_offline import BLOCK_BYTES, payloads
from alignkit.command_line import precheck
from alignkit.configuration import config_yaml
from alignkit.errors import UserError
from alignkit.job import carry_out
from alignkit.run_dir import RunDir
from alignkit.tracking import wandb_logger

SHORT = [
    "logger=wandb",
    "steps=4",
    "schedule.warmup_steps=1",
    "validation.every=2",
    "validation.samples=2",
    "validation.sample_tokens=8",
    "logger.every=1",
    "dataset.pairs=40",
    "dataset.validation_examples=8",
    "batch.pairs=4",
    "callbacks.progress_bar=false",
    "callbacks.checkpoints=false",
]


def told(runs: Runs) -> pd.DataFrame:
    """The history without the names of runs and without times, which W&B takes milliseconds later; epochs are not in its files."""
    names = sorted(set(runs.history) - {RUN, "time", "epoch"})
    return runs.history[names]


def settled(place: Path) -> Runs:
    """The runs once W&B has written their end; its own process may do so moments after `wandb.finish` came back."""
    deadline = time.monotonic() + 30
    while (runs := load_runs(place)).info["status"].tolist() != ["done"]:
        assert time.monotonic() < deadline, "W&B never wrote the end of the run"
        time.sleep(0.1)
    return runs


def test_a_real_run_read_from_wandb_is_the_one_read_from_its_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    (settings,) = precheck([*SHORT, f"run_dir={tmp_path / 'run'}", "loss=con_dph", "loss.beta=0.3"])
    run = RunDir.create(tmp_path / "run")
    carry_out(settings, run)
    files, mirror = load_runs(run.path), settled(run.path / "wandb")
    assert len(files.history) == 7  # four training steps, three validations
    pd.testing.assert_frame_equal(told(files), told(mirror), check_exact=True)
    assert (files.history["time"] - mirror.history["time"]).abs().max() < 5
    assert mirror.config.iloc[0].to_dict() == files.config.iloc[0].to_dict()
    assert mirror.config["loss.beta"].tolist() == [0.3]
    assert mirror.names == ["con_dph-tiny-beta0.3-epsilon0.1-seed0"]
    ours, theirs = files.results.iloc[0].dropna().to_dict(), mirror.results.iloc[0].dropna().to_dict()
    assert {name: theirs[name] for name in ours} == ours
    assert files.samples.drop(columns=RUN).to_dict("records") == mirror.samples.drop(columns=RUN).to_dict("records")
    assert len(files.samples) == 6
    assert mirror.info["status"].tolist() == ["done"]
    (file,) = (run.path / "wandb").glob("offline-run-*/run-*.wandb")
    for place in (file, file.parent):
        pd.testing.assert_frame_equal(told(load_runs(place)), told(mirror))
    # What a killed run leaves: of any beginning of the file the rows that are whole in it.
    content = file.read_bytes()
    found = []
    for length in range(len(content) // 2, len(content), len(content) // 8):
        torn = tmp_path / f"torn-{length}" / file.name
        torn.parent.mkdir()
        torn.write_bytes(content[:length])
        whole = load_runs(torn)
        assert whole.history["step"].tolist() == mirror.history["step"].tolist()[: len(whole.history)]
        assert whole.info["status"].tolist() == ["unfinished"]
        found.append(len(whole.history))
    assert 0 < found[0] < found[-1] <= 7


def log(settings, run: RunDir, rows: list[tuple[int, float]]) -> None:
    """Log a metric to both places, as training does."""
    with wandb_logger(settings, run) as logger:
        assert logger is not None
        for step, value in rows:
            logger.log_metrics({"val/loss": value}, step=step)
            run.append_metrics({"val/loss": value}, step=step, epoch=0.0)


def test_a_resumed_run_is_one_run_and_what_is_not_finite_is_nan(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    (settings,) = precheck([f"run_dir={tmp_path / 'run'}"])
    run = RunDir.create(tmp_path / "run")
    run.config.write_text(config_yaml(dataclasses.replace(settings)))
    log(settings, run, [(0, 1.0), (10, math.nan), (20, -0.1), (30, 9.0)])
    run.metrics.write_text("".join(run.metrics.read_text().splitlines(keepends=True)[:3]))  # as resuming from step 20 does
    log(settings, run, [(30, 9.0), (40, math.inf), (50, 1e-7)])
    mirror = settled(run.path / "wandb")
    assert len(list((run.path / "wandb").glob("offline-run-*"))) == 2
    assert mirror.history["step"].tolist() == [0, 10, 20, 30, 40, 50]
    pd.testing.assert_frame_equal(told(load_runs(run.path)), told(mirror), check_exact=True)
    assert mirror.history["val/loss"].isna().tolist() == [False, True, False, False, True, False]


def test_a_file_of_another_kind_is_refused(tmp_path: Path):
    (tmp_path / "run-x.wandb").write_bytes(b"SQLite format 3\0")
    with pytest.raises(UserError, match=r"run-x.wandb: is no file of W&B's"):
        load_runs(tmp_path)


def test_records_that_span_blocks_are_joined():
    """LevelDB's framing by hand: a record that fills a block up to its last three bytes, which are padding, and one of two fragments."""
    header = b":W&B" + b"\0" * 3
    first = b"a" * (BLOCK_BYTES - len(header) - 7 - 3)
    second, third = b"b" * (BLOCK_BYTES - 7), b"c" * 100
    fragments = [
        frame(1, first) + b"\0" * 3,
        frame(2, second),
        frame(4, third),
        frame(1, b"last"),
    ]
    whole = header + b"".join(fragments)
    assert list(payloads(whole)) == [first, second + third, b"last"]
    assert list(payloads(whole[:-1])) == [first, second + third]


def frame(kind: int, data: bytes) -> bytes:
    return zlib.crc32(bytes([kind]) + data).to_bytes(4, "little") + len(data).to_bytes(2, "little") + bytes([kind]) + data
