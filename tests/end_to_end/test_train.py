"""`python -m alignkit.train` as a user runs it: the files of the contract, the exit codes, and models that others load."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from alignkit.command_line import precheck
from alignkit.job import carry_out
from alignkit.metrics import metric
from alignkit.models.export import load_aligned
from alignkit.run_dir import RunDir, read_jsonl

SHORT = [
    "steps=6",
    "schedule.warmup_steps=1",
    "validation.every=3",
    "validation.samples=2",
    "validation.sample_tokens=8",
    "logger.every=2",
    "dataset.pairs=40",
    "dataset.validation_examples=12",
    "batch.pairs=8",
    "callbacks.progress_bar=false",
]
LOSSES = ["sft", "reward", "dpo", "cdpo", "ipo", "ipo_avg", "sep_dph", "con_dph"]


def train(tmp_path: Path, *overrides: str) -> tuple[RunDir, dict[str, object]]:
    (settings,) = precheck([*SHORT, "logger=jsonl", "callbacks.checkpoints=false", *overrides])
    run = RunDir.create(tmp_path / "run")
    return run, carry_out(settings, run)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_and_its_model_loads_elsewhere_with_the_same_log_probs(loss, tmp_path):
    run, results = train(tmp_path, f"loss={loss}")
    aligned = load_aligned(run.path)
    plain = AutoModelForCausalLM.from_pretrained(run.model)
    ids = torch.tensor([AutoTokenizer.from_pretrained(run.model)('Review of "The Silent Harbour":')["input_ids"]])
    assert torch.equal(plain(ids).logits, aligned.backbone.lm(ids).logits)
    before = AutoModelForCausalLM.from_pretrained(Path(__file__).parents[2] / "alignkit/lab/pretrained/tiny")(ids).logits
    assert not torch.equal(plain(ids).logits, before)
    rows = list(read_jsonl(run.metrics))
    assert [row["step"] for row in rows if "val/loss" in row] == [0, 3, 6]
    assert [row["step"] for row in rows if "train/loss" in row] == [2, 4, 6]
    names = {name.split("/", 1)[1] for row in rows for name in row if name.startswith(("train/", "val/"))}
    assert all(metric(name).meaning for name in names)
    assert results == json.loads(run.results.read_text())
    assert bool(aligned.heads) == (loss in ("reward", "sep_dph", "con_dph")) == run.heads.exists() == run.heads_description.exists()


@pytest.mark.parametrize(
    ("loss", "first"),
    [("dpo", 0.6931471805599453), ("cdpo", 0.6931471805599453), ("ipo", 25.0), ("ipo_avg", 25.0)],
)
def test_training_starts_at_the_closed_form_value(loss, first, tmp_path):
    run, results = train(tmp_path, f"loss={loss}", "loss.beta=0.1", "reference=memory")
    assert results["certificate/first_loss"] == pytest.approx(first, abs=1e-6)
    start = next(read_jsonl(run.metrics))
    assert start["val/loss"] == pytest.approx(first, abs=1e-6)
    assert start["val/rewards/chosen"] == start["val/rewards/margins"] == 0.0
    assert start["val/rewards/accuracies"] == 0.5
    assert results["reference_fingerprint"] == results["policy_fingerprint"]


def test_a_frozen_trunk_leaves_the_language_model_alone_to_the_bit(tmp_path):
    run, results = train(tmp_path, "loss=sep_dph", "loss.dpo_weight=0", "model.train=heads")
    plain = AutoModelForCausalLM.from_pretrained(run.model)
    before = AutoModelForCausalLM.from_pretrained(Path(__file__).parents[2] / "alignkit/lab/pretrained/tiny")
    ids = torch.randint(3, 1000, (4, 60), generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain(ids).logits, before(ids).logits)
    assert results["reference_fingerprint"] is None
    assert results["val/loss"] != results["start/val/loss"]


@pytest.mark.parametrize(("precision", "stored"), [("bf16", torch.float32), ("bf16_true", torch.bfloat16)])
def test_bfloat16_starts_at_the_closed_form_value_and_trains(precision, stored, tmp_path):
    run, results = train(tmp_path, "loss=dpo", f"precision={precision}", "reference=memory")
    assert results["certificate/first_loss"] == pytest.approx(0.6931471805599453, abs=1e-6)
    assert results["val/loss"] < results["start/val/loss"]
    assert AutoModelForCausalLM.from_pretrained(run.model, dtype="auto").dtype == stored


def test_the_same_command_gives_the_same_numbers_to_the_bit(tmp_path):
    rows = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        run, _ = train(tmp_path / name)
        rows.append([{k: v for k, v in row.items() if k != "time" and "throughput" not in k} for row in read_jsonl(run.metrics)])
    assert rows[0] == rows[1]


def test_layouts_and_micro_batches_do_not_change_the_numbers(tmp_path):
    losses = []
    for name, overrides in {
        "packed": (),
        "rows": ("batch.layout=rows",),
        "many": ("batch.tokens=128",),
    }.items():
        (tmp_path / name).mkdir()
        run, _ = train(tmp_path / name, *overrides)
        losses.append([row["train/loss"] for row in read_jsonl(run.metrics) if "train/loss" in row])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert losses[2] == pytest.approx(losses[0], abs=1e-5)


def test_the_command_leaves_every_file_of_the_contract(tmp_path):
    command = [sys.executable, "-m", "alignkit.train", *SHORT, "run_dir=out", "seed=3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(f"run: {tmp_path / 'out'}")
    assert "val/rewards/accuracies" in done.stdout
    assert "con_dph: L = " in done.stdout
    run = RunDir(tmp_path / "out")
    files = (run.config, run.metrics, run.results, run.samples, run.heads, run.heads_description, run.model, run.checkpoints)
    assert [path.name for path in files if not path.exists()] == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    config = yaml.safe_load(run.config.read_text())
    assert (config["seed"], config["loss"]["beta"], config["steps"]) == (3, 0.1, 6)
    assert {row["step"] for row in read_jsonl(run.samples)} == {0, 3, 6}
    assert len(list((run.path / "wandb").glob("offline-run-*/run-*.wandb"))) == 1


def test_a_mistake_costs_one_message_and_no_directory(tmp_path):
    command = [sys.executable, "-m", "alignkit.train", "loss=con_dpo"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Did you mean 'con_dph'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_weights_and_has_its_exit_code(number, code, tmp_path):
    overrides = [*SHORT, "logger=jsonl", "steps=100000", "validation.every=100000", "run_dir=out"]
    process = subprocess.Popen(
        [sys.executable, "-m", "alignkit.train", *overrides], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    run = RunDir(tmp_path / "out")
    while not (run.metrics.exists() and sum(1 for _ in read_jsonl(run.metrics)) >= 3):
        assert process.poll() is None, process.stdout.read() if process.stdout else ""
        time.sleep(0.1)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output
    assert f"stopped by {number.name} after step" in output
    assert (run.checkpoints / "last.ckpt").exists()
    AutoModelForCausalLM.from_pretrained(run.model)
