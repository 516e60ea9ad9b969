"""What `alignkit.plan` predicts against what training takes: peak memory and seconds a step.

    python tests/bench/plan_versus_measured.py [models=tiny,gpt2,smollm2 smollm2=DIR] [dataset=FILE] [tokenizer=DIR] [precision=bf16]
        [steps=6] [pairs=16] [batch_tokens=4096] [threads=2] [ranks=2 strategy=fsdp] [extra=KEY=VALUE,...] [out=FILE]

`tiny` trains on the embedded reviews in float32. `gpt2` is a GPT-2 of random weights, 124 M parameters by the defaults of its
configuration, under the tokenizer of `tokenizer=`; it and SmolLM2-135M train on Anthropic HH. Memory is the highest resident set of the
process, of several ranks that of the one that takes most; seconds a step are the median time between rows of `metrics.jsonl`, so that
the first step is left out. Memory may be compared on a busy machine, seconds may not.
"""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import final

from measure import append_record, machine, parse_arguments, run_child, say

SHARED = Path(__file__).resolve().parents[3] / "shared"
GIB = 2**30
MAKE_GPT2 = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
torch.manual_seed(0)
ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
AutoModelForCausalLM.from_config(GPT2Config(**ids)).save_pretrained(sys.argv[2])
tokenizer.save_pretrained(sys.argv[2])
"""


@final
@dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments."""

    models: tuple[str, ...] = ("tiny",)
    """Which of the three; `gpt2` and `smollm2` need the folder below."""
    smollm2: str = ""
    """Folder of SmolLM2-135M."""
    dataset: str = str(SHARED / "data/hh_rlhf/harmless_base_test.jsonl.gz")
    """File of `dataset=hh_rlhf`."""
    tokenizer: str = ""
    """Folder of the tokenizer of `gpt2`; empty: that of SmolLM2."""
    precision: str = "bf16"
    """Of `gpt2` and SmolLM2."""
    steps: int = 6
    pairs: int = 16
    batch_tokens: int = 4096
    threads: int = 2
    """Of each process."""
    ranks: int = 1
    """Processes that train together, on this machine."""
    strategy: str = "ddp"
    """Of several ranks: `ddp`, `fsdp` or `tensor_parallel`."""
    extra: tuple[str, ...] = ()
    """More overrides for both commands."""
    out: str = ""
    """File that a JSON record is appended to."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One model: predicted and measured."""

    model: str
    predicted_gib: float
    measured_gib: float
    predicted_seconds: float
    measured_seconds: float

    def lines(self) -> list[str]:
        """The two quantities, each with measured over predicted."""
        rows = (("peak GiB", self.predicted_gib, self.measured_gib), ("seconds/step", self.predicted_seconds, self.measured_seconds))
        return [f"{self.model:9}{name:14}{left:11.3f}{right:11.3f}{right / left:8.2f}" for name, left, right in rows]


def overrides(options: Options, model: str, gpt2: str) -> list[str]:
    """What both commands are given: nothing beside training that takes time."""
    folder = {"gpt2": gpt2, "smollm2": options.smollm2}.get(model)
    real = [f"model.path={folder}", "model=hf", "dataset=hh_rlhf", f"dataset.path={options.dataset}", f"precision={options.precision}"]
    return [
        *(real if folder else ["model=tiny"]),
        *(f"steps={options.steps}", "schedule.warmup_steps=0", f"batch.pairs={options.pairs}", f"batch.tokens={options.batch_tokens}"),
        *(f"validation.every={options.steps}", "validation.samples=0", "dataset.validation_examples=16"),
        *hardware(options),
        *(f"hardware.threads={options.threads}", "logger=jsonl", "logger.every=1"),
        *("callbacks.checkpoints=false", "callbacks.progress_bar=false", *options.extra),
    ]


def hardware(options: Options) -> list[str]:
    """One process on the CPU, or several."""
    if options.ranks == 1:
        return ["hardware=cpu"]
    several = [f"hardware={options.strategy}", "hardware.accelerator=cpu", f"hardware.devices={options.ranks}"]
    return [*several, *([f"hardware.tensor_parallel={options.ranks}"] if options.strategy == "tensor_parallel" else [])]


def run(command: Sequence[str], log: Path, threads: int) -> tuple[str, int]:
    """A command's output and its peak resident memory.

    Raises:
        SystemExit: with the end of its output, when it did not end well.
    """
    child = run_child([sys.executable, *command], log, threads=threads)
    text = log.read_text()
    if child.exit_code != 0:
        raise SystemExit(f"{' '.join(command[:3])} ended with {child.exit_code}:\n{text[-3000:]}")
    return text, child.peak_bytes


def predicted(page: str, name: str) -> float:
    """A figure of the plan, by the words before it."""
    found = re.search(rf"^  {name} +([\d.,e+]+)", page, re.MULTILINE)
    assert found is not None, page
    return float(found.group(1).replace(",", ""))


def compare(options: Options, model: str, gpt2: str, folder: Path) -> Result:
    """Plan, train, and put both side by side."""
    arguments = overrides(options, model, gpt2)
    page, _ = run(["-m", "alignkit.plan", *arguments], folder / f"{model}-plan.log", options.threads)
    say(page)
    _, peak = run(["-m", "alignkit.train", *arguments, f"run_dir={folder / model}"], folder / f"{model}-train.log", options.threads)
    rows = [json.loads(line) for line in (folder / model / "metrics.jsonl").read_text().splitlines()]
    times = [row["time"] for row in rows if "train/loss" in row]
    return Result(
        model=model,
        predicted_gib=predicted(page, "peak"),
        measured_gib=peak / GIB,
        predicted_seconds=predicted(page, "seconds, measured here" if options.ranks == 1 else "seconds, with communication"),
        measured_seconds=statistics.median(after - before for before, after in pairwise(times)),
    )


def main() -> None:
    options = parse_arguments(Options, sys.argv[1:])
    if options.steps < 2:
        raise SystemExit(f"steps = {options.steps}; the first step is not measured: take 2 or more.")
    before = machine()
    with tempfile.TemporaryDirectory(prefix="alignkit-plan-") as name:
        folder = Path(name)
        gpt2 = folder / "gpt2"
        if "gpt2" in options.models:
            run(["-c", MAKE_GPT2, options.tokenizer or options.smollm2, str(gpt2)], folder / "gpt2.log", options.threads)
        results = [compare(options, model, str(gpt2), folder) for model in options.models]
    say(f"machine: {options.threads} threads, " + ", ".join(f"{key} {value}" for key, value in before.items()))
    say(f"{'model':9}{'':14}{'predicted':>11}{'measured':>11}{'ratio':>8}")
    for result in results:
        say("\n".join(result.lines()))
    record = {"benchmark": "plan_versus_measured", "options": dataclasses.asdict(options), "machine": before}
    append_record(options.out, {**record, "results": [dataclasses.asdict(result) for result in results]})


if __name__ == "__main__":
    main()
