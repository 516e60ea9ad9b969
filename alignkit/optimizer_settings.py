"""Settings of the optimizers and of the learning rate: `optimizer=` and `schedule=`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from alignkit.errors import check_choice, check_range


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerSettings:
    """`optimizer=`: what every optimizer here shares; each has its own subclass below."""

    name: str
    lr: float
    """Learning rate of the trunk after warm-up."""
    weight_decay: float
    """Decoupled decay of the trunk's weights: each step moves them by lr * weight_decay towards `decay_towards`."""
    decay_towards: str
    """`init`: the weights at the start of this run (prior regularisation, arXiv:2405.20053); `zero`."""
    decay_exclude: list[str]
    """Parameters whose name contains one of these are not decayed."""
    head_lr_multiplier: float
    """Learning rate of the heads over that of the trunk."""
    head_weight_decay: float
    """Decoupled decay of the heads towards zero: they start from random weights."""
    clip_norm: float
    """Largest global gradient norm; 0 leaves gradients alone."""

    def __post_init__(self) -> None:
        check_range("optimizer.lr", self.lr, above=0.0)
        check_range("optimizer.weight_decay", self.weight_decay, low=0.0)
        check_choice("optimizer.decay_towards", self.decay_towards, ("init", "zero"))
        check_range("optimizer.head_lr_multiplier", self.head_lr_multiplier, above=0.0)
        check_range("optimizer.head_weight_decay", self.head_weight_decay, low=0.0)
        check_range("optimizer.clip_norm", self.clip_norm, low=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class MomentSettings(OptimizerSettings):
    """What optimizers with moving averages of the gradient and of its square share."""

    beta1: float
    """Of the gradient, [0, 1)."""
    beta2: float
    """Of its square, [0, 1)."""
    eps: float

    def __post_init__(self) -> None:
        OptimizerSettings.__post_init__(self)
        check_range("optimizer.beta1", self.beta1, low=0.0, below=1.0)
        check_range("optimizer.beta2", self.beta2, low=0.0, below=1.0)
        check_range("optimizer.eps", self.eps, above=0.0)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class AdamWSettings(MomentSettings):
    """Loshchilov & Hutter 2019 (arXiv:1711.05101)."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class LaPropSettings(MomentSettings):
    """Ziyin et al. 2020 (arXiv:2002.04839): the optimizer of the DPH authors."""


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class RMSpropSettings(OptimizerSettings):
    """The optimizer of the DPO paper's repository."""

    alpha: float
    eps: float

    def __post_init__(self) -> None:
        OptimizerSettings.__post_init__(self)
        check_range("optimizer.alpha", self.alpha, low=0.0, below=1.0)
        check_range("optimizer.eps", self.eps, above=0.0)


OPTIMIZER_SETTINGS: Mapping[str, type[OptimizerSettings]] = {
    "adamw": AdamWSettings,
    "laprop": LaPropSettings,
    "rmsprop": RMSpropSettings,
}


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleSettings:
    """`schedule=`: the learning rate over optimiser steps; linear warm-up, then `name`."""

    name: str
    """`constant`, `linear` or `cosine` from the full rate at the end of the warm-up to `final_ratio` at the last step."""
    warmup_steps: int
    final_ratio: float
    """Last learning rate over the highest; not used by `constant`."""

    def __post_init__(self) -> None:
        check_choice("schedule.name", self.name, ("constant", "linear", "cosine"))
        check_range("schedule.warmup_steps", self.warmup_steps, low=0)
        check_range("schedule.final_ratio", self.final_ratio, low=0.0, high=1.0)
