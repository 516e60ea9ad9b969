"""PPO of alignkit and TRL made comparable: one description of the updates, two workers. See `contest` for training on given data."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from contest import HERE, Precision, run_worker
from measure import Child

TRLPrecision = Literal["fp32", "bf16", "bf16_rollouts", "bf16_weights"]
"""Of TRL. `bf16`: autocast over float32 weights in training, as `accelerate launch --mixed_precision bf16` has it; rollouts are float32.
`bf16_rollouts`: autocast in rollouts too, which is what alignkit's bf16 is and TRL has no setting for. `bf16_weights`: weights, gradients
and Adam's moments in bf16, where small updates are lost in rounding: what it trains is not what the others train."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Updates:
    """What both sides are told. An episode is one sampled completion."""

    model: str
    """Folder of a causal language model."""
    episodes: int
    """Of an update: so many prompts, each answered once."""
    response: int
    """Tokens of every completion."""
    epochs: int
    """Passes over the episodes of an update, each one optimiser step."""
    lr: float
    kl_coef: float
    """Weight of the KL penalty in the reward."""
    threads: int


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class InputsJob:
    """What `ppo_inputs.py` reads."""

    model: str
    dataset: str
    prompts: int
    prompt_tokens: tuple[int, int]
    """Shortest and longest."""
    folder: str


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TRLPPOJob:
    """A run of TRL, as `trl_ppo_worker.py` reads it."""

    model: str
    examples: str
    """File of token ids of prompts, in the order of training."""
    head: str
    """File of the weights of the reward head."""
    folder: str
    """For what the trainer writes."""
    updates: int
    episodes: int
    response: int
    epochs: int
    micro: int
    """Episodes of a forward pass in training."""
    rollout: int
    """Episodes that are sampled and scored at once."""
    precision: str
    lr: float
    kl_coef: float
    threads: int


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PPOVariant:
    """How TRL may be run; which way is fastest depends on the machine, the model and the data."""

    precision: TRLPrecision
    micro: int
    rollout: int

    def __str__(self) -> str:
        return f"{self.precision}, {self.micro} episodes a forward pass, {self.rollout} a rollout"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class PPOMeasured:
    """What a worker reports, and what its process cost."""

    step_seconds: list[float]
    """From the end of an update to the end of the next one: the first update is left out."""
    cpu_seconds: list[float]
    """Processor seconds of these updates, of all threads: on a busy machine the better measure of work."""
    sampling_seconds: list[float]
    """Of these, in sampling; empty where the worker does not tell."""
    episodes: int
    """Of an update."""
    scores: list[float]
    """Mean score of each update, before the KL penalty, the first one included."""
    kls: list[float]
    """Mean sum over a completion of log policy - log reference, nats, of each update."""
    startup_seconds: float
    """From the start of the process to the first update."""
    threads: int
    versions: dict[str, str]
    settings: dict[str, Any]
    peak_bytes: int
    command_seconds: float

    @property
    def episode_seconds(self) -> list[float]:
        """Of each measured update."""
        return [seconds / self.episodes for seconds in self.step_seconds]

    @property
    def episode_cpu_seconds(self) -> list[float]:
        """Of each measured update, all threads."""
        return [seconds / self.episodes for seconds in self.cpu_seconds]


@final
class PPOContest:
    """Starts workers, each in a process of its own, and gives them folders."""

    def __init__(self, updates: Updates, trl_python: str, folder: Path) -> None:
        self.updates = updates
        self.trl_python = trl_python
        self.folder = folder
        self._runs = 0

    @property
    def examples(self) -> Path:
        """Prompts as token ids, in the order of training; alignkit's dump of what it trains on replaces those that were prepared."""
        return self.folder / "examples.jsonl"

    def prepare(self, dataset: str, prompts: int, prompt_tokens: tuple[int, int]) -> None:
        """Write prompts and the reward head."""
        job = InputsJob(model=self.updates.model, dataset=dataset, prompts=prompts, prompt_tokens=prompt_tokens, folder=str(self.folder))
        self._run([sys.executable, str(HERE / "ppo_inputs.py")], dataclasses.asdict(job))

    def overrides(self, precision: str, steps: int) -> list[str]:
        """alignkit's command line: what TRL is told, and nothing beside PPO that takes time."""
        u = self.updates
        return [
            *("loss=ppo", f"loss.epochs={u.epochs}", "loss.minibatches=1", f"loss.kl_coefficient={u.kl_coef}"),
            *("scorer=head", f"scorer.path={self.folder / 'run'}"),
            *("model=hf", f"model.path={u.model}"),
            *("dataset=local", f"dataset.path={self.folder / 'prompts.jsonl'}", "dataset.validation_examples=8"),
            *(f"batch.pairs={u.episodes}", "rollout.samples=1", f"rollout.max_tokens={u.response}", "rollout.temperature=1.0"),
            *(f"precision={precision}", "hardware=cpu", f"hardware.threads={u.threads}", f"steps={steps}"),
            *(f"validation.every={steps}", "validation.samples=0"),
            *("optimizer=adamw", f"optimizer.lr={u.lr}", "optimizer.weight_decay=0", "optimizer.head_weight_decay=0"),
            "optimizer.clip_norm=0",
            *("schedule=constant", "schedule.warmup_steps=0", "seed=0"),
            *("logger=jsonl", "logger.every=1", "callbacks.progress_bar=false", "callbacks.checkpoints=false"),
        ]

    def run_alignkit(self, precision: Precision, updates: int, extra: tuple[str, ...] = (), *, dump: bool = False) -> PPOMeasured:
        """Train; with `dump`, write down the prompts that TRL is to be given."""
        job = {
            "overrides": [*self.overrides(precision, updates), *extra, f"run_dir={self.folder / f'run{self._runs}'}"],
            "dump": str(self.folder) if dump else None,
        }
        return self._measure([sys.executable, str(HERE / "alignkit_ppo_worker.py")], job)

    def run_trl(self, variant: PPOVariant, updates: int) -> PPOMeasured:
        u = self.updates
        job = TRLPPOJob(
            model=u.model,
            examples=str(self.examples),
            head=str(self.folder / "head.safetensors"),
            folder=str(self.folder / f"trl{self._runs}"),
            updates=updates,
            episodes=u.episodes,
            response=u.response,
            epochs=u.epochs,
            micro=variant.micro,
            rollout=variant.rollout,
            precision=variant.precision,
            lr=u.lr,
            kl_coef=u.kl_coef,
            threads=u.threads,
        )
        return self._measure([self.trl_python, str(HERE / "trl_ppo_worker.py")], dataclasses.asdict(job))

    def _measure(self, command: list[str], job: dict[str, Any]) -> PPOMeasured:
        result, child = self._run(command, job)
        return PPOMeasured(**result, peak_bytes=child.peak_bytes, command_seconds=child.seconds)

    def _run(self, command: list[str], job: dict[str, Any]) -> tuple[dict[str, Any], Child]:
        stem = self.folder / f"job{self._runs}"
        self._runs += 1
        return run_worker(command, stem, job, threads=self.updates.threads)
