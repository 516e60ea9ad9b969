"""`hydra/sweeper=optuna_study`: how many trials, of what, and when one is given up. No optuna."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, final

from alignkit.config_checks import check_keys
from alignkit.errors import UserError, check_choice, check_range
from alignkit.metrics import VALIDATION, metric

SWEEPER = "optuna_study"


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class StudySettings:
    """A search: Optuna chooses the values of each job from what earlier jobs reached."""

    trials: int
    """Jobs, pruned and failed ones included."""
    parallel: int
    """Jobs that the launcher is given at once; their values are chosen without knowing of each other."""
    metric: str | None
    """The number of `results.json` that is sought; null is `loss.monitor`."""
    direction: str | None
    """`higher` or `lower`; null is the metric's own."""
    sampler: str
    """`tpe` (tree-structured Parzen estimator, Bergstra et al. 2011) or `random`."""
    pruner: str
    """`median` stops a job whose metric is worse than the median of earlier jobs at the same step; `halving` keeps the best quarter at
    steps that grow fourfold (arXiv:1810.05934); `none` lets all jobs end."""
    startup_trials: int
    """Trials whose values are drawn at random, and before which none is pruned by `median`."""
    warmup_steps: int
    """Optimiser steps before which `median` prunes none."""
    seed: int
    """Of the sampler."""

    def __post_init__(self) -> None:
        check_range("hydra.sweeper.trials", self.trials, low=1)
        check_range("hydra.sweeper.parallel", self.parallel, low=1)
        check_range("hydra.sweeper.startup_trials", self.startup_trials, low=0)
        check_range("hydra.sweeper.warmup_steps", self.warmup_steps, low=0)
        check_range("hydra.sweeper.seed", self.seed, low=0, high=2**32 - 1)
        check_choice("hydra.sweeper.sampler", self.sampler, ("tpe", "random"))
        check_choice("hydra.sweeper.pruner", self.pruner, ("median", "halving", "none"))
        if self.direction is not None:
            check_choice("hydra.sweeper.direction", self.direction, ("higher", "lower"))


def study_settings(given: Mapping[str, Any]) -> StudySettings:
    """From the values of Hydra's node.

    Raises:
        UserError: on an unknown key or a value of the wrong type.
    """
    values = {key: value for key, value in given.items() if key != "params"}
    legal = {field.name: field.type for field in fields(StudySettings)}
    check_keys("hydra.sweeper", values, legal, owner=SWEEPER)
    for key, value in values.items():
        if "int" in str(legal[key]) and (not isinstance(value, int) or isinstance(value, bool)):
            raise UserError(f"hydra.sweeper.{key} = {value!r}; must be a whole number.")
        if "str" in str(legal[key]) and not isinstance(value, str | None):
            raise UserError(f"hydra.sweeper.{key} = {value!r}; must be a word.")
    return StudySettings(**values)


def sought(settings: StudySettings, monitors: set[str]) -> tuple[str, bool]:
    """Name of the metric that a study seeks, and whether higher is better. `monitors`: of all losses that it may try.

    Raises:
        UserError: when there is no one metric, or it is neither better high nor low.
    """
    if settings.metric is None and len(monitors) > 1:
        raise UserError(
            f"hydra.sweeper.metric = null: the losses of this study are monitored by {' and '.join(sorted(monitors))}. Name one that all "
            "have, e.g. hydra.sweeper.metric=val/rewards/accuracies."
        )
    name = settings.metric or next(iter(monitors))
    try:
        better = settings.direction or metric(name.removeprefix(VALIDATION)).better
    except KeyError:
        raise UserError(
            f"hydra.sweeper.metric = {name!r}; no validation logs it. Try val/loss, or name its hydra.sweeper.direction."
        ) from None
    if better == "neither":
        raise UserError(f"hydra.sweeper.metric = {name!r} is better neither high nor low. Type hydra.sweeper.direction=higher or lower.")
    return name, better == "higher"
