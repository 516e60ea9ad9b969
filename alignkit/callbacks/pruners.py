"""Optuna's pruners by the names that `hydra.sweeper.pruner` has for them. A study's file does not hold its pruner: each job builds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.pruners import BasePruner


def build_pruner(name: str, *, startup_trials: int, warmup_steps: int) -> BasePruner:
    """`median`, `halving` or `none`; the numbers are those of `median`."""
    from optuna import pruners

    if name == "median":
        return pruners.MedianPruner(n_startup_trials=startup_trials, n_warmup_steps=warmup_steps)
    return pruners.SuccessiveHalvingPruner() if name == "halving" else pruners.NopPruner()
