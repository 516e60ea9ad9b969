"""Thirty optimiser steps of an objective on a real model, from its packaged settings to gradient norms, and how two such curves compare.

Everything is as in a run: the model's folder, the data file, the tokens, packed batches, reference, loss, optimizer and schedule. What a
run does beside training (validation, samples, files) is left out.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, final

import torch
import transformers
from lightning import Trainer
from lightning.pytorch.loggers.logger import Logger

from alignkit.assembly import assemble
from alignkit.command_line import precheck
from alignkit.configuration import loss_settings, packaged
from alignkit.losses.rollout_families import SampledLoss
from alignkit.metrics import GRADIENT_NORM, LOSS, POLICY_LOSS, SURROGATE_GAIN, TRAIN
from alignkit.resolution import build_losses
from alignkit.settings import RunSettings

FOLDER = Path(__file__).parent
SHARED = Path(os.environ.get("ALIGNKIT_SHARED", FOLDER.parents[2] / "shared"))
"""Real models beside the checkout."""
STEPS = 30
COMMON = (
    "model=hf",
    "dataset=local",
    f"dataset.path={FOLDER / 'examples.jsonl'}",
    "dataset.max_length=32",
    "dataset.validation_examples=1",
    "batch.pairs=2",
    f"steps={STEPS}",
    "optimizer.lr=2e-5",
    "schedule.warmup_steps=3",
    "reference=memory",
    "logger=jsonl",
    "hardware=cpu",
    "run_dir=nowhere",
)
MODELS: Mapping[str, tuple[str, ...]] = {
    "tiny": ("model.path=builtin:tiny",),
    "stories260k": (f"model.path={SHARED / 'models' / 'stories260k'}", "batch.tokens=48"),  # two micro-batches a step
}
SAMPLES = ("rollout.samples=2", "rollout.max_tokens=6")
"""For losses on samples of the policy, whose score is their sentiment."""
BESIDE_NLL = ("forward_kl", "reverse_kl")
"""Divergences from the reference, at which training starts: alone they would follow their own rounding."""
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "composite": {"parts": {"dpo": {"loss": "dpo", "beta": 0.2}, "nll": {"loss": "sft", "weight": 0.1}}},
    **{loss: {"parts": {"divergence": {"loss": loss}, "nll": {"loss": "sft", "weight": 0.1}}} for loss in BESIDE_NLL},
    "orthogonality": {"pooler": "bert"},
    "grpo": {"epochs": 2},
    "ppo": {"epochs": 2, "minibatches": 2},
    "reward_ensemble": {"members": 2, "bootstrap": 0},
    "rloo": {"epochs": 2},
    "trpo": {"cg_iterations": 1, "value_epochs": 1, "backtracks": 1},
}
"""Options of losses that have no curve without them, a flat or a dear one; of a head, where the loss has none of that name."""
OF_EACH_FAMILY = (
    *("aot", "bco", "bradley_terry", "composite", "con_dph", "contrastive", "dpo", "forward_kl", "kto"),
    *("orthogonality", "plackett_luce", "plackett_luce_dpo", "ppo", "re_po", "regression", "sft", "simpo"),
)
"""Whose whole curve is looked at on every change; of the others, which share all but a formula with one of these (or are dear, as
TRPO is), the first `FIRST` steps."""
FIRST = 5
ON_STORIES = ("con_dph", "dpo", "ipo_avg", "kto", "sft", "simpo")
LIMITS = {"loss": (1e-4, 1e-5), "gradient_norm": (1e-2, 1e-3)}
"""Largest and mean distance of two curves of different machines, in units of the larger of 1 and the recorded curve's largest value:
those of TRL's invariance tests."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """What an objective did in `STEPS` steps, and where."""

    loss: tuple[float, ...]
    """Mean loss of each step; of losses on samples that of the policy, of TRPO the gain of its surrogate."""
    gradient_norm: tuple[float, ...]
    """Before clipping."""
    environment: Mapping[str, str]

    def first(self, steps: int) -> Curve:
        """Its beginning."""
        return replace(self, loss=self.loss[:steps], gradient_norm=self.gradient_norm[:steps])

    def to_json(self) -> str:
        """With each number to its last bit."""
        lists = {name: [value.hex() for value in getattr(self, name)] for name in LIMITS}
        return json.dumps({**lists, "environment": dict(self.environment)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Curve:
        values = json.loads(text)
        lists = {name: tuple(map(float.fromhex, values[name])) for name in LIMITS}
        return cls(**lists, environment=values["environment"])


def losses_on(model: str) -> list[str]:
    """The losses that have a curve on a model."""
    return losses() if model == "tiny" else list(ON_STORIES)


def losses() -> list[str]:
    """Every option of `loss=` that is not another name for one of them."""
    return sorted(loss for loss, values in packaged("loss").items() if values.get("name") == loss)


def record_of(model: str, loss: str) -> Path:
    """The file that holds a curve."""
    return FOLDER / model / f"{loss}.json"


def environment() -> dict[str, str]:
    """What decides the last bit of a product."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cpu": f"{_cpu_name()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(torch.get_num_threads()),
    }


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


@cache
def base(model: str) -> RunSettings:
    """The settings that all losses share on a model."""
    (settings,) = precheck([*COMMON, *MODELS[model]])
    return settings


def settings_of(loss: str, model: str) -> RunSettings:
    """The settings of a loss: its packaged values, on the common data."""
    values: dict[str, Any] = dict(packaged("loss")["composite" if loss in BESIDE_NLL else loss])
    for key, value in CHANGES.get(loss, {}).items():
        values |= {key: value} if key in values else {"head": {**values["head"], key: value}}
    settings = replace(base(model), loss=loss_settings(values, ()))
    if not issubclass(type(build_losses(settings.loss, ())[0][1]), SampledLoss):
        return settings
    (sampled,) = precheck([*COMMON, *SAMPLES, *MODELS[model], f"loss={loss}", "scorer=vader"])
    return replace(sampled, loss=settings.loss)


class _Rows(Logger):
    """Keeps what a module logs."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Mapping[str, float]] = []

    @property
    def name(self) -> str:
        return "rows"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the settings are known."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.rows.append(dict(metrics))


def curve_of(settings: RunSettings, steps: int = STEPS) -> Curve:
    """Train for the first so many steps, and say how it went."""
    torch.manual_seed(settings.seed)
    job, rows = assemble(replace(settings, logger=replace(settings.logger, every=1))), _Rows()
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        max_steps=-1,
        limit_train_batches=steps,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        inference_mode=False,
        logger=rows,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(job.module, datamodule=job.data)
    name = next(TRAIN + name for name in (LOSS, POLICY_LOSS, SURROGATE_GAIN) if TRAIN + name in rows.rows[0])
    return Curve(
        loss=tuple(row[name] for row in rows.rows),
        gradient_norm=tuple(row[TRAIN + GRADIENT_NORM] for row in rows.rows),
        environment=environment(),
    )


def distances(recorded: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    """Largest and mean distance of two curves, in units of the larger of 1 and the recorded curve's largest value."""
    unit = max(1.0, *map(abs, recorded))
    apart = [abs(a - b) / unit for a, b in zip(recorded, measured, strict=True)]
    return max(apart), sum(apart) / len(apart)


def differences(recorded: Curve, measured: Curve) -> list[str]:
    """In words, how a curve is not the one on record: to the bit where both come from one environment, within `LIMITS` elsewhere."""
    found = []
    for name, (largest, mean) in LIMITS.items():
        before, now = getattr(recorded, name), getattr(measured, name)
        if recorded.environment == measured.environment:
            if before != now:
                step = next(step for step, (a, b) in enumerate(zip(before, now, strict=True), 1) if a != b)
                found.append(f"{name} of step {step} is {now[step - 1]!r}, was {before[step - 1]!r} in the same environment")
            continue
        apart = distances(before, now)
        if not (apart[0] <= largest and apart[1] <= mean):
            found.append(f"{name} is up to {apart[0]:.2g} off, {apart[1]:.2g} in the mean; at most {largest:g} and {mean:g}")
    return found
