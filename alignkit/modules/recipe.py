"""How a module is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from alignkit.optimizer_settings import OptimizerSettings, ScheduleSettings


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Optimizer, schedule and length of a run."""

    optimizer: OptimizerSettings
    schedule: ScheduleSettings
    steps: int
    """Optimiser steps of the whole run."""
    log_every: int
    """Optimiser steps between training rows."""
