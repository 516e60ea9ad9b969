"""Every setting of a run, as frozen records that check themselves.

The YAML files under `conf/` hold the values and say what each is for; the fields here hold the types and the legal ranges.
A test keeps the two in step. Nothing here imports anything heavy, so that a mistake is found before torch is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

from alignkit.errors import UserError, check_choice, check_range
from alignkit.optimizer_settings import OptimizerSettings, ScheduleSettings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LossSettings:
    """`loss=`: the objective, the module that trains it and the number that says whether it works."""

    name: str
    """`con_dph` is the one public class of `alignkit/losses/con_dph.py`; a dotted name is a module of an `allow_code` package."""
    module: str
    """`dph` is the one public class of `alignkit/modules/dph.py`."""
    monitor: str
    """Metric that decides which checkpoint is the best."""
    options: dict[str, Any]
    """The fields of the loss class and of the module's options, as typed by the user."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class HeadSettings:
    """`loss.head`: a head that reads one score from the hidden state at a completion's last token (facts: DPH 1.4)."""

    POOLERS: ClassVar[tuple[str, ...]] = ("identity", "bert", "t5", "swiglu_bert", "swiglu_t5")

    name: str
    """Key of the head in `heads.safetensors`."""
    pooler: str
    """What stands between the hidden state and the linear map to one score."""
    dropout: float
    """Dropout inside the pooler, [0, 1)."""
    init_std: float | None
    """Standard deviation of the initial weights; null means 1 / sqrt(hidden width + 1)."""

    def __post_init__(self) -> None:
        check_choice("loss.head.pooler", self.pooler, self.POOLERS)
        check_range("loss.head.dropout", self.dropout, low=0.0, below=1.0)
        if self.init_std is not None:
            check_range("loss.head.init_std", self.init_std, low=0.0)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class JointSettings:
    """The cDPO term that a preference head may be trained with: `loss = head loss + dpo_weight * cdpo(beta, dpo_epsilon)`."""

    dpo_weight: float
    """Weight of the cDPO term; 0 leaves the term and its reference model out."""
    beta: float | None
    """Strength of the KL constraint in the cDPO term, > 0; null exactly when `dpo_weight` is 0."""
    dpo_epsilon: float
    """Label smoothing of the cDPO term, [0, 0.5)."""

    def __post_init__(self) -> None:
        check_range("loss.dpo_weight", self.dpo_weight, low=0.0)
        check_range("loss.dpo_epsilon", self.dpo_epsilon, low=0.0, below=0.5)
        if self.dpo_weight > 0:
            if self.beta is None:
                raise UserError("loss.beta is missing: it is the strength of the joint cDPO term. Try loss.beta=0.1.")
            check_range("loss.beta", self.beta, above=0.0)
        elif self.beta is not None:
            raise UserError(
                f"loss.beta = {self.beta} has no effect while loss.dpo_weight = 0: beta is the strength of the joint cDPO term. "
                "Leave loss.beta out, or try loss.dpo_weight=1."
            )


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """`model=`: the language model that is trained."""

    name: str
    """Label in run names."""
    path: str
    """Hub id, folder, or `builtin:tiny`."""
    train: str
    """`all`: trunk and heads; `heads`: the trunk is frozen, its logits stay bit-identical."""
    attention: str
    """How packed rows attend: `tiles` (CPUs), `flex` (GPUs), `dense` (a mask of a row's length squared, anywhere); `auto`: the
    fastest that the model and the device can."""
    checkpointing: str
    """`full`: activations of a layer are computed again in the backward pass, for a fraction of the memory and a third more time;
    `off`; `auto`: full where the run would not fit into memory otherwise."""
    compile: bool
    """Compile the layers with torch.compile: minutes at the start, for a faster step where the device gains by it."""

    def __post_init__(self) -> None:
        check_choice("model.train", self.train, ("all", "heads"))
        check_choice("model.attention", self.attention, ("auto", "tiles", "flex", "dense"))
        check_choice("model.checkpointing", self.checkpointing, ("auto", "off", "full"))


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
class ReferenceSettings:
    """`reference=`: the frozen model that log-ratios and the KL are measured against."""

    source: str
    """`cache`: its log-probs are computed once, before training, and kept in `cache_dir`; `memory`: it runs in every step."""
    path: str | None
    """Folder or hub id of the reference; null is the policy as it is when training starts."""

    def __post_init__(self) -> None:
        check_choice("reference.source", self.source, ("cache", "memory"))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class HardwareSettings:
    """`hardware=`: what the run computes on."""

    name: str
    accelerator: str
    """Lightning's name of the device kind: `auto`, `cpu`, `gpu`."""
    threads: int | None
    """CPU threads; null leaves torch's own choice."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionSettings:
    """`precision=`: what the matrix products run in. Log-probs, losses and rewards are float32 in all of them."""

    name: str
    lightning: str
    """Lightning's name: `32-true`, `bf16-mixed` (float32 weights, bf16 products), `bf16-true` (bf16 weights)."""

    def __post_init__(self) -> None:
        check_choice("precision.lightning", self.lightning, ("32-true", "bf16-mixed", "bf16-true"))


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

    def __post_init__(self) -> None:
        check_range("validation.every", self.every, low=1)
        check_range("validation.samples", self.samples, low=0)
        check_range("validation.sample_tokens", self.sample_tokens, low=1)


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
    """Keep the newest state and the best by the loss's monitor under `checkpoints/`."""


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
    validation: ValidationSettings
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
    """Packages outside alignkit that `loss.name`, `loss.module` and `dataset.source` may name."""

    def __post_init__(self) -> None:
        check_range("steps", self.steps, low=1)
        check_range("seed", self.seed, low=0, high=2**32 - 1)
        if self.schedule.warmup_steps >= self.steps:
            raise UserError(
                f"schedule.warmup_steps = {self.schedule.warmup_steps} is not less than steps = {self.steps}: the full learning rate would "
                f"never be reached. Try schedule.warmup_steps={self.steps // 10}."
            )
