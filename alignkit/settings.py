"""Every setting of a run, as frozen records that check themselves.

The YAML files under `conf/` hold the values and say what each is for; the fields here hold the types and the legal ranges.
A test keeps the two in step. Nothing here imports anything heavy, so that a mistake is found before torch is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

from alignkit.divergence_settings import DivergenceSettings
from alignkit.errors import UserError, check_choice, check_range
from alignkit.loss_settings import LossSettings
from alignkit.model_settings import ModelSettings, ReferenceSettings
from alignkit.optimizer_settings import OptimizerSettings, ScheduleSettings
from alignkit.rollout_settings import RewardSettings, RolloutSettings, ScorerSettings

MOST_THREADS = 1024
"""Of a process; more are a mistake, and end in a crash of the threads' own library."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSettings:
    """`dataset=`: where the preferences come from and how they become tokens."""

    name: str
    """Label in run names."""
    source: str
    """`hh_rlhf` is the one public class of `alignkit/data/sources/hh_rlhf.py`."""
    path: str | None
    """A file in the data set's original format (JSONL, JSONL.gz, CSV, Parquet); null reads `hub`."""
    validation_path: str | None
    """A second such file; null holds `validation_examples` of the first one out, whole prompts at a time."""
    hub: str | None
    """Data set id on the hub."""
    subset: str | None
    """Configuration name or data directory on the hub."""
    split: str
    """Split on the hub."""
    format: str
    """`auto`: dialogues through the tokenizer's chat template where it has one; `chat`: always; `text`: never."""
    max_length: int
    """Tokens of a prompt with one completion; answers come first, the prompt's oldest tokens are cut."""
    overflow: str
    """`trim` cuts what is longer than `max_length`; `drop` leaves the example out."""
    train_examples: int | None
    """At most this many examples for training; null takes all."""
    validation_examples: int
    """Examples held out."""
    max_dropped: float
    """Fraction of the examples that may be dropped (empty, identical, too long, ...) before that is an error."""
    streaming: bool
    """For sets that do not fit into memory: rows are read one after the other, tokenised once into a memory-mapped file under
    `cache_dir`, and read from there by all ranks and runs. The same examples in the same order as without."""
    options: dict[str, Any]
    """The fields of the source class, as typed by the user."""

    def __post_init__(self) -> None:
        check_choice("dataset.format", self.format, ("auto", "chat", "text"))
        check_choice("dataset.overflow", self.overflow, ("trim", "drop"))
        check_range("dataset.max_length", self.max_length, low=8)
        check_range("dataset.validation_examples", self.validation_examples, low=1)
        check_range("dataset.max_dropped", self.max_dropped, low=0.0, high=1.0, hint="It is a fraction, 1 allows everything.")
        if self.train_examples is not None:
            check_range("dataset.train_examples", self.train_examples, low=1)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class BatchSettings:
    """How many examples one optimiser step sees and how they are cut into forward passes."""

    pairs: int
    """Examples (pairs, or texts for sft) in one optimiser step, over all devices."""
    tokens: int
    """Token positions of one micro-batch: what bounds memory. A longer example gets a micro-batch of its own."""
    layout: str
    """`packed`: prompts shared, several examples a row; `rows`: one prompt with one completion a row."""

    def __post_init__(self) -> None:
        check_range("batch.pairs", self.pairs, low=1)
        check_range("batch.tokens", self.tokens, low=16)
        check_choice("batch.layout", self.layout, ("packed", "rows"))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class HardwareSettings:
    """`hardware=`: what the run computes on."""

    name: str
    accelerator: str
    """Lightning's name of the device kind: `auto`, `cpu`, `gpu`."""
    strategy: str
    """How several devices share the work: `one` (there is one), `ddp`, `fsdp`, `tensor_parallel`."""
    devices: int
    """Of each node, one process each."""
    nodes: int
    """Machines."""
    tensor_parallel: int
    """Devices that hold one model together; the others share the examples. 1 but for `strategy: tensor_parallel`."""
    slurm: bool
    """Whether Slurm starts the processes (`srun`), not this command."""
    threads: int | None
    """CPU threads of each process; null leaves torch's own choice."""
    timeout: int
    """Seconds that a process waits for gradients or weights of another one that hangs; of one that has died it hears at once."""

    def __post_init__(self) -> None:
        check_choice("hardware.accelerator", self.accelerator, ("auto", "cpu", "gpu"))
        check_choice("hardware.strategy", self.strategy, ("one", "ddp", "fsdp", "tensor_parallel"))
        for field in ("devices", "nodes", "tensor_parallel", "timeout"):
            check_range(f"hardware.{field}", getattr(self, field), low=1)
        if self.threads is not None:
            check_range("hardware.threads", self.threads, low=1, high=MOST_THREADS, hint="null leaves the number to torch.")

    @property
    def processes(self) -> int:
        """Over all nodes."""
        return self.devices * self.nodes

    @property
    def readers(self) -> int:
        """Shares that the examples of a step are dealt out in: processes that hold one model together have the same."""
        return self.processes // self.tensor_parallel


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionSettings:
    """`precision=`: what the matrix products run in. Log-probs, losses and rewards are float32 in all of them."""

    name: str
    lightning: str
    """Lightning's name: `32-true`, `bf16-mixed` and `16-mixed` (float32 weights, bf16 or fp16 products), `bf16-true` (bf16 weights)."""

    def __post_init__(self) -> None:
        check_choice("precision.lightning", self.lightning, ("32-true", "bf16-mixed", "16-mixed", "bf16-true"))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationSettings:
    """When held-out pairs are scored and how many prompts are answered aloud."""

    every: int
    """Optimiser steps between validations; there is one before the first step and one after the last."""
    samples: int
    """Held-out prompts that policy and reference continue side by side; 0 for none."""
    sample_tokens: int
    """Longest continuation."""
    gold: str | None
    """Option of `scorer=` that scores one sample a held-out prompt at each validation, whatever the objective; null for none."""
    benchmarks: list[str]
    """Tasks of `alignkit.evaluate` whose questions are asked at each validation, by log-probs and every head."""
    benchmark_path: str | None
    """A folder with their rows in their original format; null reads the hub."""
    benchmark_questions: int
    """Of each task, the first ones."""
    kl: bool
    """Measure KL(policy | reference) on such samples at each validation, whatever the objective. Costs the memory of a second model where
    the objective holds no reference in memory. `ppo` and its like always measure it."""

    def __post_init__(self) -> None:
        check_range("validation.every", self.every, low=1)
        check_range("validation.samples", self.samples, low=0)
        check_range("validation.sample_tokens", self.sample_tokens, low=1)
        check_range("validation.benchmark_questions", self.benchmark_questions, low=1)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LoggerSettings:
    """`logger=`: who hears of the metrics beside `metrics.jsonl`, which is always written."""

    name: str
    wandb: bool
    """Mirror to Weights & Biases; offline unless the user is logged in, never a prompt."""
    project: str
    group: str | None
    """W&B group; null takes the sweep's directory name in a sweep."""
    every: int
    """Optimiser steps between training rows."""

    def __post_init__(self) -> None:
        check_range("logger.every", self.every, low=1)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CallbackSettings:
    """`callbacks=`: what happens beside training."""

    name: str
    progress_bar: bool
    checkpoints: bool
    """Keep the newest states and the best by the loss's monitor under `checkpoints/`: at validations, signals, and when a step fails."""
    checkpoint_minutes: float | None
    """A state is saved between validations too, once so many minutes have passed; null: it is not."""
    keep_checkpoints: int
    """States to go on from: where the newest is damaged, the one before it is taken."""
    background_checkpoints: bool
    """Write while training goes on: the next steps need not wait for a slow disk, but memory holds a second copy of the state."""
    gradient_cosine: bool
    """After each validation, the cosine between the gradients of chosen and rejected log-probs: two more backward passes."""
    ledger: bool
    """Write what each training pair is worth each time before it is trained on: about 20 bytes a pair and visit, under `ledger/`."""

    def __post_init__(self) -> None:
        check_range("callbacks.keep_checkpoints", self.keep_checkpoints, low=1)
        if self.checkpoint_minutes is not None:
            check_range("callbacks.checkpoint_minutes", self.checkpoint_minutes, above=0, hint="null saves at validations alone.")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RunSettings:
    """A whole run, checked."""

    loss: LossSettings
    model: ModelSettings
    dataset: DatasetSettings
    hardware: HardwareSettings
    precision: PrecisionSettings
    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    logger: LoggerSettings
    callbacks: CallbackSettings
    batch: BatchSettings
    reference: ReferenceSettings
    scorer: ScorerSettings
    rollout: RolloutSettings
    reward: RewardSettings
    validation: ValidationSettings
    divergence: DivergenceSettings
    seed: int
    """Of the weights of new heads, the order of the data and everything else that is drawn."""
    steps: int
    """Optimiser steps."""
    run_dir: str
    cache_dir: str | None
    """Where log-probs and hidden states of frozen models are kept between runs; null is $ALIGNKIT_CACHE, else ~/.cache/alignkit."""
    debug: bool
    """Show tracebacks of the user's own mistakes too."""
    allow_code: list[str]
    """Packages outside alignkit that `loss.name`, `loss.module`, `dataset.source`, `scorer.name` and `scorer.callable` may name."""

    def __post_init__(self) -> None:
        check_range("steps", self.steps, low=1)
        check_range("seed", self.seed, low=0, high=2**32 - 1)
        if self.schedule.warmup_steps >= self.steps:
            raise UserError(
                f"schedule.warmup_steps = {self.schedule.warmup_steps} is not less than steps = {self.steps}: the full learning rate would "
                f"never be reached. Try schedule.warmup_steps={self.steps // 10}."
            )
        if self.divergence.rolls_back:
            where = "divergence.spike_action = 'rollback'"
            if not self.callbacks.checkpoints:
                raise UserError(f"{where} with callbacks.checkpoints = false: there is nothing to go back to. Leave one of them out.")
            if self.hardware.strategy in ("fsdp", "tensor_parallel"):
                raise UserError(
                    f"{where} with hardware.strategy = {self.hardware.strategy!r}: models that are cut do not go back within a run. Type "
                    "divergence.spike_action=skip."
                )
