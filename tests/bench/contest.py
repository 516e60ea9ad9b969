"""Runs of alignkit and TRL that are comparable: one description of the training, two workers."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from measure import Child, run_child

HERE = Path(__file__).resolve().parent
LOSSES = {"dpo": "dpo", "reward": "bradley_terry", "sft": "sft"}
Precision = Literal["bf16", "fp32"]
Layout = Literal["padded", "padding_free", "bfd", "wrapped"]
PACKED = ("bfd", "wrapped")
"""Layouts whose rows are cut from all examples: their steps are made of others than alignkit's."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What both sides are told; the arguments that the scripts share."""

    model: str = ""
    """Folder or hub id of a causal language model; empty: alignkit's own tiny one."""
    dataset: str = ""
    """File of the data; empty: alignkit's embedded reviews."""
    source: str = ""
    """alignkit's `dataset=` for that file; empty: hh_rlhf for pairs, local for sft."""
    pairs: int = 8
    """Examples in an optimiser step."""
    steps: int = 4
    """Measured optimiser steps; one more comes before them."""
    max_length: int = 512
    """Tokens of a prompt with one completion."""
    precision: Precision = "bf16"
    """Of alignkit."""
    threads: int = 2
    lr: float = 1e-5
    beta: float = 0.1
    """Of DPO."""
    extra: tuple[str, ...] = ()
    """More overrides for alignkit: extra=batch.tokens=2048,model.compile=true."""
    env: str = ""
    """Folder of TRL's virtual environment; empty: ~/.cache/alignkit-bench/trl-VERSION."""
    out: str = ""
    """File that a JSON record is appended to."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TRLJob:
    """A run of TRL, as `trl_worker.py` reads it."""

    objective: str
    model: str
    examples: str
    """File of token ids, in the order of training."""
    head: str
    """File of the initial weights of a reward head."""
    folder: str
    """For what the trainer writes."""
    steps: int
    micro: int
    """Rows of a forward pass that the data loader hands over: pairs, texts or packed rows."""
    accumulation: int
    """Forward passes in an optimiser step."""
    precision: str
    layout: str
    max_length: int
    lr: float
    beta: float
    threads: int
    save: bool = False


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """How TRL may be run; which way is fastest depends on the machine, the model and the data."""

    precision: Precision
    micro: int
    """Examples of a forward pass. One wastes no padding and little memory; many make larger matrix products."""
    layout: Layout

    def __str__(self) -> str:
        return f"{self.precision} {self.layout} {self.micro} a forward pass"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """What a worker reports, and what its process cost."""

    losses: list[float]
    """Nats, of every optimiser step."""
    step_seconds: list[float]
    """From the end of an optimiser step to the end of the next one: the first step is left out."""
    tokens: list[float]
    """Of the measured steps, as the worker counts them: prompts as often as they are computed. Empty for alignkit."""
    startup_seconds: float
    """From the start of the process to the first step, without the reference."""
    reference_seconds: float
    """Reference log-probs before training; 0 where there are none or each step computes its own."""
    threads: int
    versions: dict[str, str]
    settings: dict[str, Any]
    peak_bytes: int
    command_seconds: float
    model_path: str = ""


class WorkerError(RuntimeError):
    """A worker did not end well; the message holds the end of its output."""


@final
class Contest:
    """Starts workers, each in a process of its own, and gives them folders."""

    def __init__(self, training: Training, objective: str, trl_python: str, folder: Path) -> None:
        self.training = training
        self.objective = objective
        self.trl_python = trl_python
        self.folder = folder
        self.model_path = ""
        self._runs = 0

    @property
    def examples(self) -> Path:
        return self.folder / "examples.jsonl"

    def overrides(self, precision: str, steps: int) -> list[str]:
        """alignkit's command line: what TRL is told, and nothing beside training that takes time."""
        t = self.training
        source = t.source or ("local" if self.objective == "sft" else "hh_rlhf")
        model = ["model=hf", f"model.path={t.model}"] if t.model else ["model=tiny"]
        data = [f"dataset={source}", f"dataset.path={t.dataset}"] if t.dataset else ["dataset=reviews"]
        beta = [f"loss.beta={t.beta}"] if self.objective == "dpo" else []
        return [
            *(f"loss={LOSSES[self.objective]}", *beta, *model, *data, f"dataset.max_length={t.max_length}"),
            *("dataset.validation_examples=8", f"validation.every={steps}", "validation.samples=0"),
            *(f"precision={precision}", "hardware=cpu", f"hardware.threads={t.threads}", f"batch.pairs={t.pairs}", f"steps={steps}"),
            *("optimizer=adamw", f"optimizer.lr={t.lr}", "optimizer.weight_decay=0", "optimizer.head_weight_decay=0"),
            *("optimizer.clip_norm=1", "schedule=constant", "schedule.warmup_steps=0", "seed=0"),
            *("logger=jsonl", "logger.every=1", "callbacks.progress_bar=false", "callbacks.checkpoints=false"),
            *t.extra,
        ]

    def run_alignkit(self, precision: str, steps: int, *, dump_steps: int = 0) -> Measured:
        """Train; with `dump_steps`, write down the examples of so many steps and the initial head for TRL."""
        job = {
            "overrides": [*self.overrides(precision, steps), f"run_dir={self.folder / f'run{self._runs}'}"],
            "dump": str(self.folder) if dump_steps else None,
            "dump_steps": dump_steps,
        }
        measured = self._run([sys.executable, str(HERE / "alignkit_worker.py")], job)
        self.model_path = measured.model_path
        return measured

    def run_trl(self, variant: Variant, steps: int, *, beta: float | None = None, save: bool = False) -> Measured:
        t = self.training
        micro, accumulation = variant.micro, t.pairs // variant.micro
        if variant.layout in PACKED:
            rows = max(1, sum(self.step_tokens()[:steps]) // t.max_length // steps)
            micro, accumulation = (1, rows) if variant.micro == 1 else (rows, 1)
        job = TRLJob(
            objective=self.objective,
            model=self.model_path,
            examples=str(self.examples),
            head=str(self.folder / "head.safetensors"),
            folder=str(self.folder / f"trl{self._runs}"),
            steps=steps,
            micro=micro,
            accumulation=accumulation,
            precision=variant.precision,
            layout=variant.layout,
            max_length=t.max_length,
            lr=t.lr,
            beta=t.beta if beta is None else beta,
            threads=t.threads,
            save=save,
        )
        return self._run([self.trl_python, str(HERE / "trl_worker.py")], dataclasses.asdict(job))

    def step_tokens(self) -> list[int]:
        """Tokens of each dumped step, prompts once: the work there is, whoever does it."""
        tokens: Counter[int] = Counter()
        for line in self.examples.read_text().splitlines():
            row = json.loads(line)
            tokens[row["step"]] += len(row["prompt"]) + sum(map(len, row["completions"]))
        return [tokens[step] for step in sorted(tokens)]

    def _run(self, command: list[str], job: dict[str, Any]) -> Measured:
        stem = self.folder / f"job{self._runs}"
        self._runs += 1
        result, child = run_worker(command, stem, job, threads=self.training.threads)
        return Measured(**result, peak_bytes=child.peak_bytes, command_seconds=child.seconds)


def run_worker(command: list[str], stem: Path, job: dict[str, Any], *, threads: int) -> tuple[dict[str, Any], Child]:
    """One worker to its end: what it reports and what its process cost. Its files are `stem` with suffixes.

    Raises:
        WorkerError: with the end of its output.
    """
    file, log, result = (stem.with_suffix(suffix) for suffix in (".json", ".log", ".result"))
    file.write_text(json.dumps({**job, "result": str(result), "started": time.time()}))
    child = run_child([*command, str(file)], log, threads=threads)
    if not result.exists():
        raise WorkerError(f"{command[-1]} ended with {child.exit_code}:\n" + "\n".join(log.read_text().splitlines()[-25:]))
    return json.loads(result.read_text()), child
