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
from alignkit.planning.communication import Communication
from alignkit.planning.devices import DEVICES, PlanSettings, read_own
from alignkit.planning.page import lines
from alignkit.planning.traffic import GATHER, Traffic

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
    tokens=5400,
    largest=4000,
    longest=500,
    seconds=Seconds(step=2.0, validation=100.0, looking=0.0),
    communication=Communication(hidden=None, between=None, hidden_gb_per_second=1.0, between_gb_per_second=1.0, overlaps=False),
    computing=2.0,
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
    own, rest = read_own(overrides)
    (settings,) = precheck([*SHORT, *rest])
    return "\n".join(lines(settings, forecast, memory, own))


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
        (["device=h1000"], "Did you mean 'h100'?"),
        (["utilisation=40"], "utilisation = 40.0; must be a number in (0, 1]"),
        (["network=fast"], "network = 'fast'; must be a number"),
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


def test_a_plan_for_ranks_that_are_not_here_says_what_they_hold_send_and_assume(
    command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ranks = ("hardware=fsdp", "hardware.accelerator=auto", "hardware.nodes=4", "hardware.devices=8", "batch.pairs=32", "device=h100")
    short = [argument for argument in SHORT if not argument.startswith(("batch.pairs", "hardware"))]
    assert command(*short, *ranks, "precision=bf16") == 0
    out = capsys.readouterr().out
    for words in (
        "memory of each rank on H100",
        "gathered layers",
        "fsdp on 4 nodes x 8 = 32 ranks",
        "all-gather",
        "reduce-scatter",
        "rings of 32",
    ):
        assert words in out
    for words in ("tokens a second", "assumed", "NVIDIA H100 data sheet", "989.5 TFLOP/s in bf16, of which 40% are reached", "it fits"):
        assert words in out
    assert list(tmp_path.iterdir()) == []


def test_tensor_parallelism_that_does_not_divide_is_refused(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    short = [argument for argument in SHORT if not argument.startswith("hardware")]
    assert command(*short, "hardware=tensor_parallel", "device=a100") == 2  # the tiny model has five heads
    assert "5 attention heads" in capsys.readouterr().err


def test_what_is_sent_is_told_with_its_time() -> None:
    ring = Traffic(ranks=4)
    ring.add(GATHER, [2**30], 2)
    sent = Communication(hidden=ring, between=None, hidden_gb_per_second=10.0, between_gb_per_second=10.0, overlaps=True)
    text = page(replace(FORECAST, communication=sent, device="cuda"), 9 * GIB, "hardware=fsdp", "hardware.devices=4", "device=a100")
    # Three quarters of two GiB pass each link, at 80 % of 10 GB/s: 0.2013 s, and 2 * 3 hops of 3 us.
    assert "all-gather, 2 calls                 1,536.0  rings of 4" in text
    assert "0.201  while it computes" in text
    # 5400 tokens in 2 s.
    assert "tokens a second                       2,700  675 a rank" in text


def test_a_device_is_read_beside_the_keys_of_a_run() -> None:
    own, rest = read_own(["loss=dpo", "device=l40s", "network=25", "hardware.devices=4"])
    assert own == PlanSettings(device="l40s", network=25.0)
    assert rest == ["loss=dpo", "hardware.devices=4"]


@pytest.mark.parametrize("device", DEVICES.values(), ids=DEVICES)
def test_a_device_names_its_source_and_is_faster_in_bf16(device) -> None:
    assert "NVIDIA" in device.source
    assert device.flops("bf16-mixed") == device.flops("bf16-true") > device.flops("32-true")
    assert device.memory_gb_per_second > device.link_gb_per_second
