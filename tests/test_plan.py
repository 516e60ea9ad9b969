"""`python -m alignkit.plan`: what it prints, what it refuses, and what it never reads."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from alignkit import plan
from alignkit.command_line import precheck
from alignkit.data.packing import Packing
from alignkit.forecast import Forecast, Seconds
from alignkit.models.location import locate

Command = Callable[..., int]
SHORT = ("dataset.pairs=40", "dataset.validation_examples=8", "batch.pairs=8", "steps=3", "schedule.warmup_steps=0", "hardware=cpu")
GIB = 2**30
FORECAST = Forecast(
    device="cpu",
    parts={"weights": 2 * GIB, "activations": 5 * GIB, "process and libraries": GIB},
    bytes_per_token=2**20,
    packing=Packing(layout="packed", tokens=4096),
    micro_batches=1.5,
    positions=6000,
    filled=5400,
    largest=4000,
    longest=500,
    seconds=Seconds(step=2.0, validation=100.0, looking=0.0),
    steps=1000,
)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Calls the command in this process, in an empty directory, and returns its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> int:
        monkeypatch.setattr(sys, "argv", ["alignkit-plan", *argv])
        return plan.main()

    return run


def page(forecast: Forecast, memory: int, *overrides: str) -> str:
    (settings,) = precheck([*SHORT, *overrides])
    return "\n".join(plan.lines(settings, forecast, memory))


def test_it_tells_memory_micro_batches_and_time(command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command(*SHORT) == 0
    out = capsys.readouterr().out
    for words in ("memory on the CPU, GiB", "weights", "process and libraries", "peak", "at hand", "micro-batches, packed", "padding"):
        assert words in out
    assert "seconds, measured here" in out
    assert "for 3 steps" in out
    assert "it fits" in out
    assert list(tmp_path.iterdir()) == []


def test_it_needs_no_weights(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "weightless"
    shutil.copytree(locate("model.path", "builtin:tiny"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    assert command("model=hf", f"model.path={folder}", *SHORT) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["loss=dpoo"], "unknown loss 'dpoo'"),
        (["plan.tokens=1"], "plan"),
        (["batch.tokens=1"], "batch.tokens = 1"),
        (["-m", "loss=dpo,ipo"], "looks at one run"),
        (["--cfg", "job"], "looks at one run"),
        (["dataset=local", "dataset.path=nowhere.jsonl"], "there is no such file"),
        (["dataset.max_length=1000"], "the model has positions for 512 tokens"),
        (["loss=dpo", "model.train=heads"], "this objective trains no head"),
    ],
)
def test_what_training_would_refuse_is_refused(
    command: Command, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert command(*arguments) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


def test_automatic_checkpointing_is_on_where_the_run_would_not_fit_otherwise(
    command: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command(*SHORT) == 0
    assert "checkpointing off" in capsys.readouterr().out
    monkeypatch.setattr("alignkit.hardware.free_memory", lambda device: 0)
    assert command(*SHORT) == 0
    out = capsys.readouterr().out
    assert "checkpointing full" in out
    assert "IT DOES NOT FIT" in out
    assert command(*SHORT, "model.checkpointing=off") == 0
    assert "checkpointing off" in capsys.readouterr().out


def test_help_is_its_own(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--help") == 0
    assert capsys.readouterr().out.startswith("alignkit-plan says what a run will need")


def test_nothing_heavy_is_imported_before_the_config_is_known_to_be_good() -> None:
    code = "import sys, alignkit.plan; print(sorted({'torch', 'transformers', 'lightning', 'datasets'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_peak_is_the_sum_of_its_parts() -> None:
    text = page(FORECAST, 16 * GIB)
    figures = {line[2:36].strip(): line[36:45].strip() for line in text.splitlines() if line.startswith("  ")}
    assert figures["activations"] == "5.00"
    assert figures["peak"] == "8.00"
    assert figures["at hand"] == "16.00"
    assert figures["micro-batches, packed"] == "1.5"
    assert "padding 10.0%" in text
    # 1000 steps of 2 s and 100 s of validation are 35 minutes.
    assert "the run: 35.0 min for 1,000 steps (1.7 min validation included)" in text


@pytest.mark.parametrize(
    ("memory", "tokens"),
    # 1 MiB a token: 8 GiB hold 4000, each GiB 1024 more or fewer; the longest example has 500.
    [(8 * GIB, 4000), (9 * GIB, 5024), (7 * GIB, 2976), (4 * GIB, 0)],
)
def test_tokens_that_fit_are_counted_from_the_largest_micro_batch(memory: int, tokens: int) -> None:
    assert FORECAST.largest_tokens_that_fit(memory) == tokens


def test_a_run_that_fits_is_told_how_far_it_could_go() -> None:
    assert "it fits: batch.tokens=5024 is the largest that would" in page(FORECAST, 9 * GIB)
    assert "it fits, and every step is one micro-batch already" in page(replace(FORECAST, micro_batches=1.0), 9 * GIB)


def test_a_run_that_does_not_fit_is_told_what_to_type() -> None:
    text = page(FORECAST, 7 * GIB, "loss=dpo", "reference=memory")
    assert "IT DOES NOT FIT: 8.0 GiB of 7.0" in text
    for typed in ("reference=cache", "batch.tokens=2976", "model.checkpointing=full", "precision=bf16_true", "decay_towards=zero"):
        assert typed in text
    other = page(FORECAST, 4 * GIB, "model.checkpointing=full", "precision=bf16_true", "optimizer.weight_decay=0")
    assert "dataset.max_length=N" in other
    for typed in ("reference=cache", "batch.tokens", "model.checkpointing=full", "precision=bf16_true", "decay_towards=zero"):
        assert typed not in other
